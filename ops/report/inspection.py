"""What the network looked at in a video, and what it made of it: the content of every picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.spatial_policy import actions_to_boxes, cut_patches
from models.uni_adafocus import Decision, UniAdaFocus
from ops.data.sources import FrameSource
from ops.utils.errors import UserError


@dataclass(frozen=True)
class Inspection:
    """A video as the network saw it: T segments, G of them glanced at, n patches looked at, frames of S x S pixels."""

    num_segments: int  # T
    num_focus_segments: int  # F, patches that there would be without an early exit
    glance_frames: np.ndarray  # uint8 RGB [G, S, S, 3]
    glance_segments: np.ndarray  # int64 [G], 0..T-1, increasing
    frame_weights: np.ndarray  # float32 [G], of the temporal policy, sum 1
    focus_frames: np.ndarray  # uint8 RGB [n, S, S, 3], in the order looked at; n is F, or fewer after an early exit
    focus_segments: np.ndarray  # int64 [n], 0..T-1, increasing
    boxes: np.ndarray  # float32 [n, 4], the patches: top, left, height, width in pixels of the S x S frame
    patches: np.ndarray  # uint8 RGB [n, P, P, 3], as the focus network saw them
    step_probabilities: np.ndarray  # float32 [1 + n, C], softmax after the glance and after each patch
    actions: np.ndarray  # float32 [G, 4], of the spatial policy: y, x, height, width in 0..1

    @property
    def exit(self) -> int:
        """Where the video left: 0 after the glance, n after the last patch."""
        return len(self.focus_segments)


@torch.no_grad()
def inspect_videos(model: UniAdaFocus, source: FrameSource, exits: Tensor | None = None) -> list[Inspection]:
    """Look at a batch of B videos step by step, and keep what was seen.

    model: in evaluation mode, on any device, such as `prepare_for_inference` gives. exits: int64 [B], patches to look
    at in each video, 0..F; None for all F. Fetches the glance frames and the frames of these patches only. What the
    policies choose is there for a video that leaves after the glance too.
    Raises ValueError for a model in training mode and for exits it does not have, UserError where logits are not
    finite, and what the source raises.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    number = len(source)
    exits = torch.full((number,), model.num_focus_segments) if exits is None else exits.cpu()
    if exits.shape != (number,) or ((exits < 0) | (exits > model.num_focus_segments)).any():
        raise ValueError(f"exits {exits.tolist()} of {number} videos; expected 0..{model.num_focus_segments} for each")
    device, videos = model.pixel_scale.device, torch.arange(number)

    glance_segments = model.glance_indices(number, videos.device)
    glance_frames = source.fetch(videos, glance_segments)  # [B * G, 3, S, S]
    glance = model.glance_at(model.normalise(glance_frames.to(device)), number)
    logits, pooled = model.classifier.glance_steps(glance.features, wanted=[model.num_glance_segments - 1])
    decision = model.decide(glance)
    glance_frames = _pictures(glance_frames.unflatten(0, (number, -1)))

    found: list[Inspection | None] = [None] * number
    for patches in exits.unique().tolist():
        rows = (exits == patches).nonzero().flatten()
        on_device = rows.to(device)
        seen = _focus(model, source, rows, decision, pooled[on_device], patches)
        probabilities = _probabilities(torch.cat([logits[on_device], seen.logits], dim=1))
        for place, row in enumerate(rows.tolist()):
            found[row] = Inspection(
                num_segments=model.num_segments,
                num_focus_segments=model.num_focus_segments,
                glance_frames=glance_frames[row],
                glance_segments=glance_segments[row].numpy(),
                frame_weights=decision.frame_weights[row].float().cpu().numpy(),
                focus_frames=seen.frames[place],
                focus_segments=decision.focus_indices[row, :patches].cpu().numpy(),
                boxes=_boxes(decision.focus_actions[row, :patches], model.input_size),
                patches=seen.patches[place],
                step_probabilities=probabilities[place],
                actions=decision.glance_actions[row].float().cpu().numpy(),
            )
    return found


@dataclass(frozen=True)
class _Seen:
    """What n patches of each of b videos showed."""

    frames: np.ndarray  # uint8 [b, n, S, S, 3]
    patches: np.ndarray  # uint8 [b, n, P, P, 3]
    logits: Tensor  # [b, n, C]


def _focus(
    model: UniAdaFocus, source: FrameSource, rows: Tensor, decision: Decision, pooled: Tensor, patches: int
) -> _Seen:
    """Look at the first `patches` of the videos `rows` [b] of the batch; pooled: their glance, [b, 4096]."""
    shape = (len(rows), patches)
    if patches == 0:
        empty = [np.empty((*shape, side, side, 3), np.uint8) for side in (model.input_size, model.patch_size)]
        return _Seen(*empty, pooled.new_empty(*shape, model.num_classes))
    on_device = rows.to(pooled.device)
    segments = decision.focus_indices[on_device, :patches].cpu()
    actions = decision.focus_actions[on_device, :patches]
    frames = source.fetch(rows, segments)  # [b * n, 3, S, S]
    normalised = model.normalise(frames.to(pooled.device))
    logits, _ = model.classifier.focus_steps(model.focus_on(normalised, actions), pooled)
    cut = cut_patches(normalised, actions.flatten(0, 1), model.patch_size, model.input_size)
    cut = ((cut + model.pixel_shift) / model.pixel_scale).round().clamp(0, 255).to(torch.uint8)
    return _Seen(_pictures(frames.unflatten(0, shape)), _pictures(cut.unflatten(0, shape)), logits)


def _boxes(actions: Tensor, input_size: int) -> np.ndarray:
    """Actions [n, 4] -> float32 [n, 4]: top, left, height, width in pixels."""
    return torch.cat(actions_to_boxes(actions, input_size), dim=-1).float().cpu().numpy()


def _pictures(frames: Tensor) -> np.ndarray:
    """uint8 [..., 3, H, W] on any device -> [..., H, W, 3]."""
    return frames.movedim(-3, -1).contiguous().cpu().numpy()


def _probabilities(logits: Tensor) -> np.ndarray:
    """Logits [b, n, C] -> float32 probabilities."""
    probabilities = logits.float().softmax(dim=-1).cpu()
    if not probabilities.isfinite().all():
        raise UserError("the network's logits are not finite: the checkpoint may be damaged, or training has diverged")
    return probabilities.numpy()
