"""The network step by step on a batch of videos, of which fewer and fewer go on: glance, decide, look at patches.

    for step in stepwise(model, source, [(2, [1, 2]), (4, [4])]):
        step.leave = is_sure(step.logits)       # bool [n]: these are done

Early exit, predictions and pictures all come from this one forward.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from models.uni_adafocus import Decision, Glance, UniAdaFocus
from ops.data.sources import FrameSource

Part = TypeVar("Part", Tensor, Glance, Decision)


class Trace(Protocol):
    """Something that records the steps."""

    def begin(self, segments: Tensor, frames: Tensor, decision: Decision, logits: Tensor) -> None:
        """The glance: segments int64 [B, G] with their frames uint8 [B * G, 3, S, S], what the policies decided then,
        and logits [B, 1, C] after it."""

    def add(self, videos: Tensor, frames: Tensor, normalised: Tensor, actions: Tensor, logits: Tensor) -> None:
        """The next f patches of each of the videos [n]: frames uint8 [n * f, 3, S, S], the same normalised, actions
        [n, f, 4], and logits [n, f, C] after each patch."""


@dataclass
class Step:
    """What the network says of the n videos that are still there. Exit k comes after k patches, 0 after the glance."""

    videos: Tensor  # int64 [n], their numbers in the batch
    patches: int  # looked at so far, of each
    exits: Sequence[int]
    logits: Tensor  # float32 [n, len(exits), C], on the CPU
    leave: Tensor | None = None  # bool [n], to be set; None: all stay


@torch.no_grad()
def stepwise(
    model: UniAdaFocus, source: FrameSource, chunks: Sequence[tuple[int, Sequence[int]]], trace: Trace | None = None
) -> Iterator[Step]:
    """Glance at all videos of the source, then look at patches while videos are left; a step after the glance, and one
    after each chunk. Only frames that are looked at are fetched.

    model: in evaluation mode, on any device; fastest once `prepare_for_inference`. chunks: until which patch to look
    (1..F), and the new exits at which logits are wanted. trace: keeps what was looked at; the policies then decide for
    videos that leave after the glance, too.
    Raises ValueError for a model in training mode, and what the source raises.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    device = model.pixel_scale.device
    videos = torch.arange(len(source))
    segments = model.glance_indices(len(videos), videos.device)
    frames = source.fetch(videos, segments)  # uint8 [B * G, 3, S, S]
    glance = model.glance_at(model.normalise(frames.to(device)), len(videos))
    last = [model.num_glance_segments - 1]
    logits, glance_pooled = model.classifier.glance_steps(glance.features, wanted=last)
    decision = focus_segments = focus_pooled = None
    if trace is not None:
        decision = model.decide(glance)
        trace.begin(segments, frames, decision, logits)
    step = Step(videos, 0, [0], logits.float().cpu())
    yield step

    for stop, exits in chunks:
        if step.leave is not None and step.leave.any():
            stay = (~step.leave).nonzero().flatten()
            videos, focus_segments = (_rows(part, stay) for part in (videos, focus_segments))
            stay = stay.to(device, non_blocking=True)  # one index for all that is on the device, and no wait for any
            parts = (glance, decision, glance_pooled, focus_pooled)
            glance, decision, glance_pooled, focus_pooled = (_rows(part, stay) for part in parts)
        if len(videos) == 0:
            return
        first, decision = step.patches, decision or model.decide(glance)
        focus_segments = decision.focus_indices.cpu() if focus_segments is None else focus_segments
        actions = decision.focus_actions[:, first:stop]  # [n, f, 4]
        frames = source.fetch(videos, focus_segments[:, first:stop])  # uint8 [n * f, 3, S, S]
        normalised = model.normalise(frames.to(device))
        features = model.focus_on(normalised, actions)
        wanted = [number - 1 for number in exits] if trace is None else range(first, stop)
        logits, focus_pooled = model.classifier.focus_steps(features, glance_pooled, first, focus_pooled, wanted)
        if trace is not None:
            trace.add(videos, frames, normalised, actions, logits)
            logits = logits[:, [number - 1 - first for number in exits]]
        step = Step(videos, stop, exits, logits.float().cpu())
        yield step


def _rows(part: Part | None, stay: Tensor) -> Part | None:
    """The videos that stay, int64 [n], of a tensor or of each tensor of a step's result on the same device."""
    if part is None:
        return None
    if isinstance(part, Tensor):
        return part[stay]
    return type(part)(**{name: _rows(value, stay) for name, value in vars(part).items()})
