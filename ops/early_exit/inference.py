"""Early exit for real: a video gets no more computation than it takes to be sure of it.

    stopping = EarlyExitInference(prepare_for_inference(model), thresholds, "confidence")
    answer = stopping(clips)        # uint8 [B, T, 3, H, W], or a FrameSource that decodes frames when they are wanted

Sample-wise dynamic computation of the paper (arXiv 2412.11228). All videos of a batch are glanced at; those that are
sure leave. For the rest the policies choose patches, and the focus network looks at them in order while the batch
shrinks. Exits and predictions are those of `exit_decisions` on the logits of all exits: both compare the same
`criterion_values` with the thresholds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from models.uni_adafocus import Decision, Glance, UniAdaFocus
from ops.data.sources import ClipFrames, FrameSource
from ops.early_exit.curve import CRITERIA, criterion_values
from ops.metrics import ArrayLike
from ops.utils.errors import UserError

Part = TypeVar("Part", Tensor, Glance, Decision)


@dataclass(frozen=True)
class Answer:
    """What a batch of B videos got, all on the CPU."""

    logits: Tensor  # float32 [B, C], where the video left
    exits: Tensor  # int64 [B], 0 after the glance .. F after the last patch
    patches: Tensor  # int64 [B], looked at; more than the exit's number where several pass between checks
    focus_indices: Tensor  # int64 [B, F], the frames chosen; -1 for a video that left after the glance


class EarlyExitInference:
    """A model with thresholds, which computes only what is needed.

    model: in evaluation mode, on any device; quickest once `prepare_for_inference`. thresholds: [F + 1], +inf where no
    video may leave; the last exit takes all that are left. criterion: "confidence" or "entropy".
    focus_chunk: patches that pass between two checks, 1 as published. With more of them exits and predictions stay the
    same, and patches are computed in vain. Where no video may leave after a patch, the next is taken along.
    Raises ValueError for thresholds of a model with another number of exits, and for a model in training mode.
    """

    def __init__(self, model: UniAdaFocus, thresholds: ArrayLike, criterion: str, focus_chunk: int = 1) -> None:
        self.model, self.criterion = model, criterion
        self.thresholds = torch.as_tensor(thresholds, dtype=torch.float32, device="cpu").clone()
        exits = model.num_focus_segments + 1
        if self.thresholds.shape != (exits,) or self.thresholds.isnan().any():
            raise ValueError(f"{self.thresholds.tolist()} are no thresholds for the {exits} exits of this model")
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
        if model.training:
            raise ValueError("the model is in training mode; call eval() first")
        if focus_chunk < 1:
            raise ValueError(f"focus_chunk must be at least 1, not {focus_chunk}")
        self.thresholds[-1] = -math.inf
        self._open = [threshold < math.inf for threshold in self.thresholds.tolist()]
        self._chunks = list(_chunks(self._open, focus_chunk))

    @torch.no_grad()
    def __call__(self, frames: Tensor | FrameSource) -> Answer:
        """Answer a batch: clips uint8 [B, T, 3, H, W], or a source of its frames.

        Raises UserError where logits are not finite, and what the source raises.
        """
        source = ClipFrames(frames) if isinstance(frames, Tensor) else frames
        model, classifier = self.model, self.model.classifier
        record = _Record(len(source), model)
        videos = torch.arange(len(source))  # those still there

        glance = model.glance_at(
            self._look(source, videos, model.glance_indices(len(videos), videos.device)), len(videos)
        )
        last_glance = [model.num_glance_segments - 1]
        logits, glance_pooled = classifier.glance_steps(glance.features, wanted=last_glance)
        stay = ~self._leave(record, videos, [0], logits)
        videos, glance, glance_pooled = videos[stay], _rows(glance, stay), _rows(glance_pooled, stay)
        if len(videos) == 0:
            return record.answer()

        decision = model.decide(glance)
        record.focus_indices[videos] = decision.focus_indices.cpu()
        focus_pooled = None
        for first, stop in self._chunks:
            looked_at = self._look(source, videos, decision.focus_indices[:, first:stop])
            features = model.focus_on(looked_at, decision.focus_actions[:, first:stop])
            record.patches[videos] = stop
            exits = [number for number in range(first + 1, stop + 1) if self._open[number]]
            logits, focus_pooled = classifier.focus_steps(
                features, glance_pooled, first, focus_pooled, wanted=[number - 1 for number in exits]
            )
            stay = ~self._leave(record, videos, exits, logits)
            videos, decision = videos[stay], _rows(decision, stay)
            glance_pooled, focus_pooled = _rows(glance_pooled, stay), _rows(focus_pooled, stay)
            if len(videos) == 0:
                break
        return record.answer()

    def _look(self, source: FrameSource, videos: Tensor, segments: Tensor) -> Tensor:
        """Fetch frames, move them to the model and normalise them there: float32 [n * f, 3, H, W]."""
        frames = source.fetch(videos, segments.cpu())
        return self.model.normalise(frames.to(self.model.pixel_scale.device))

    def _leave(self, record: "_Record", videos: Tensor, exits: Sequence[int], logits: Tensor) -> Tensor:
        """Which of the videos [n] leave at one of the exits, whose logits are [n, len(exits), C]: bool [n]."""
        logits = logits.float().cpu()
        values = criterion_values(logits, self.criterion)  # [n, exits]
        if not values.isfinite().all():
            raise UserError(f"the logits of exit {exits[0]} or later are not finite: the checkpoint may be damaged")
        reached = values >= self.thresholds[exits]
        leave, first = reached.any(dim=1), reached.int().argmax(dim=1)
        record.exits[videos[leave]] = torch.tensor(exits)[first[leave]]
        record.logits[videos[leave]] = logits[leave, first[leave]]
        return leave


class _Record:
    """What is known so far of each video of a batch."""

    def __init__(self, videos: int, model: UniAdaFocus) -> None:
        self.logits = torch.empty(videos, model.num_classes)
        self.exits = torch.empty(videos, dtype=torch.int64)
        self.patches = torch.zeros(videos, dtype=torch.int64)
        self.focus_indices = torch.full((videos, model.num_focus_segments), -1)

    def answer(self) -> Answer:
        return Answer(self.logits, self.exits, self.patches, self.focus_indices)


def _chunks(is_open: Sequence[bool], size: int) -> Iterator[tuple[int, int]]:
    """Runs of patches first..stop-1 with a check after each; is_open[k]: whether a video may leave after k patches."""
    last, first = len(is_open) - 1, 0
    while first < last:
        stop = min(first + size, last)
        while not is_open[stop]:
            stop += 1
        yield first, stop
        first = stop


def _rows(part: Part, stay: Tensor) -> Part:
    """The videos that stay, bool [n], of a tensor or of each tensor of a step's result."""
    if stay.all():
        return part
    if isinstance(part, Tensor):
        return part[stay.to(part.device)]
    return type(part)(**{name: _rows(value, stay) for name, value in vars(part).items()})
