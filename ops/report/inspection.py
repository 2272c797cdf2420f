"""What the network saw in a video and predicted from it: the content of every picture."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.spatial_policy import actions_to_boxes, cut_patches
from models.uni_adafocus import Decision, UniAdaFocus
from ops.data.sources import FrameSource
from ops.stepwise import stepwise
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


class InspectionTrace:
    """Collects what the network sees of the videos of a batch in `ops.stepwise`, for pictures."""

    def __init__(self, model: UniAdaFocus) -> None:
        self.model = model

    def begin(self, segments: Tensor, frames: Tensor, decision: Decision, logits: Tensor) -> None:
        """See `Trace`."""
        videos, patches = decision.focus_indices.shape
        self.glance_segments, self.decision = segments, decision
        self.glance_frames = _pictures(frames.unflatten(0, (videos, -1)))
        size, patch_size = self.model.input_size, self.model.patch_size
        self.focus_frames = np.empty((videos, patches, size, size, 3), np.uint8)
        self.patches = np.empty((videos, patches, patch_size, patch_size, 3), np.uint8)
        self.logits = torch.cat([logits.float().cpu(), torch.empty(videos, patches, logits.shape[-1])], dim=1)
        self.looked_at = np.zeros(videos, np.int64)

    def add(self, videos: Tensor, frames: Tensor, normalised: Tensor, actions: Tensor, logits: Tensor) -> None:
        """See `Trace`."""
        model, shape = self.model, actions.shape[:2]
        patches = cut_patches(normalised, actions.flatten(0, 1), model.patch_size, model.input_size)
        patches = ((patches + model.pixel_shift) / model.pixel_scale).round().clamp(0, 255).to(torch.uint8)
        rows, first = videos.numpy(), self.looked_at[videos[0]]
        stop = first + shape[1]
        self.focus_frames[rows, first:stop] = _pictures(frames.unflatten(0, shape))
        self.patches[rows, first:stop] = _pictures(patches.unflatten(0, shape))
        self.logits[rows, first + 1 : stop + 1] = logits.float().cpu()
        self.looked_at[rows] = stop

    def inspections(self) -> list[Inspection]:
        """What was seen of each video so far. Raises UserError where logits are not finite."""
        boxes = torch.cat(actions_to_boxes(self.decision.focus_actions, self.model.input_size), dim=-1)
        weights, actions, boxes = (
            part.float().cpu().numpy() for part in (self.decision.frame_weights, self.decision.glance_actions, boxes)
        )
        segments = self.decision.focus_indices.cpu().numpy()
        probabilities = self.logits.softmax(dim=-1).numpy()
        found = []
        for video, patches in enumerate(self.looked_at.tolist()):
            if not np.isfinite(probabilities[video, : patches + 1]).all():
                raise UserError(
                    "the network's logits are not finite: the checkpoint may be damaged, or training has diverged"
                )
            found.append(
                Inspection(
                    num_segments=self.model.num_segments,
                    num_focus_segments=self.model.num_focus_segments,
                    glance_frames=self.glance_frames[video],
                    glance_segments=self.glance_segments[video].numpy(),
                    frame_weights=weights[video],
                    focus_frames=self.focus_frames[video, :patches],
                    focus_segments=segments[video, :patches],
                    boxes=boxes[video, :patches],
                    patches=self.patches[video, :patches],
                    step_probabilities=probabilities[video, : patches + 1],
                    actions=actions[video],
                )
            )
        return found


def inspect_videos(model: UniAdaFocus, source: FrameSource) -> list[Inspection]:
    """Look at all patches of each video in a batch, without early exit.

    Raises what `stepwise` does, and UserError where logits are not finite.
    """
    trace = InspectionTrace(model)
    for _ in stepwise(model, source, [(model.num_focus_segments, [])], trace):
        pass
    return trace.inspections()


def _pictures(frames: Tensor) -> np.ndarray:
    """uint8 [..., 3, H, W] on any device -> [..., H, W, 3]."""
    return frames.movedim(-3, -1).cpu().numpy()
