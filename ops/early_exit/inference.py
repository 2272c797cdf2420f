"""Early exit for real: a video gets no more computation than it takes to be sure of it.

    stopping = EarlyExitInference(prepare_for_inference(model), thresholds, "confidence")
    result = stopping(clips)        # uint8 [B, T, 3, H, W], or a FrameSource that decodes frames when they are wanted

Sample-wise dynamic computation of the paper (arXiv 2412.11228). All videos of a batch are glanced at; those that are
sure leave. For the rest the policies choose patches, and the focus network looks at them in order while the batch
shrinks. Exits and predictions are those of `ops.early_exit.curve.exit_decisions` on the logits of all exits: both
compare the same `criterion_values` with the thresholds.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.data.sources import ClipFrames, FrameSource
from ops.early_exit.curve import CRITERIA, criterion_values
from ops.metrics import ArrayLike
from ops.stepwise import Trace, stepwise
from ops.utils.errors import UserError


@dataclass(frozen=True)
class ExitResult:
    """Predictions and exits of a batch of B videos, on the CPU."""

    logits: Tensor  # float32 [B, C], where the video left
    exits: Tensor  # int64 [B], 0 after the glance .. F after the last patch
    patches: Tensor  # int64 [B], looked at; more than the exit's number where several pass between checks

    @classmethod
    def empty(cls, videos: int, classes: int) -> "ExitResult":
        """To be filled in as videos leave."""
        exits, patches = torch.zeros(2, videos, dtype=torch.int64)
        return cls(torch.zeros(videos, classes), exits, patches)


class EarlyExitInference:
    """A model with thresholds, which computes only what is needed.

    model: in evaluation mode, on any device; fastest once `prepare_for_inference`. thresholds: [F + 1], +inf where no
    video may leave; the last exit takes all that are left. criterion: "confidence" or "entropy".
    focus_chunk: patches that pass between two checks, 1 as published. With more of them exits and predictions stay the
    same, and patches are computed in vain. Where no video may leave after a patch, the next is taken along.
    Raises ValueError for thresholds that are nan or not one for each exit of the model, for an unknown criterion or a
    focus_chunk below 1, and when called with a model in training mode.
    """

    def __init__(self, model: UniAdaFocus, thresholds: ArrayLike, criterion: str, focus_chunk: int = 1) -> None:
        self.model, self.criterion = model, criterion
        self.thresholds = torch.as_tensor(thresholds, dtype=torch.float32, device="cpu").clone()
        exits = model.num_focus_segments + 1
        if self.thresholds.shape != (exits,) or self.thresholds.isnan().any():
            raise ValueError(f"{self.thresholds.tolist()} are no thresholds for the {exits} exits of this model")
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")
        if focus_chunk < 1:
            raise ValueError(f"focus_chunk must be at least 1, not {focus_chunk}")
        self.thresholds[-1] = -math.inf
        self._chunks = list(_chunks([threshold < math.inf for threshold in self.thresholds.tolist()], focus_chunk))

    def __call__(self, frames: Tensor | FrameSource, trace: Trace | None = None) -> ExitResult:
        """Run a batch: clips uint8 [B, T, 3, H, W], or a source of its frames; trace: keeps what was looked at.

        Raises ValueError for clips of another shape than the model's, UserError where logits are not finite, and what
        the source raises.
        """
        if isinstance(frames, Tensor):
            self.model.check_frames(frames)
        source = ClipFrames(frames) if isinstance(frames, Tensor) else frames
        result = ExitResult.empty(len(source), self.model.num_classes)
        for step in stepwise(self.model, source, self._chunks, trace):
            values = criterion_values(step.logits, self.criterion)  # [n, exits]
            if not values.isfinite().all():
                raise UserError(
                    f"the logits of exit {step.exits[0]} or later are not finite: the checkpoint may be damaged"
                )
            reached = values >= self.thresholds[step.exits]
            step.leave = reached.any(dim=1)
            first = reached.int().argmax(dim=1)[step.leave]
            leaving = step.videos[step.leave]
            result.logits[leaving] = step.logits[step.leave, first]
            result.exits[leaving] = torch.tensor(step.exits)[first]
            result.patches[leaving] = step.patches
        return result


def joined(results: Sequence[ExitResult]) -> ExitResult:
    """The results of several batches as one."""
    return ExitResult(*(torch.cat(parts) for parts in zip(*(vars(result).values() for result in results), strict=True)))


def _chunks(is_open: Sequence[bool], size: int) -> Iterator[tuple[int, list[int]]]:
    """Until which patch to look before each check, and the exits to check; is_open[k]: whether a video may leave after
    k patches."""
    last, first = len(is_open) - 1, 0
    while first < last:
        stop = min(first + size, last)
        while not is_open[stop]:
            stop += 1
        yield stop, [number for number in range(first + 1, stop + 1) if is_open[number]]
        first = stop
