"""Where to look in each frame, and cutting that patch (paper section 3.2, "spatial dynamic computation").

An action is four numbers in [0, 1]: (y, x, height, width). Height and width say how far a patch grows from the
smallest side to the whole frame; y and x say where the free play that is left puts its top left corner.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import STRIDE

PUBLISHED_INPUT_SIZE = 224
PUBLISHED_SMALLEST_SIDE = 96


def smallest_side(input_size: int) -> float:
    """Side in pixels of the smallest patch: 96 of 224 pixels, and the same share of other frame sizes."""
    return input_size * PUBLISHED_SMALLEST_SIDE / PUBLISHED_INPUT_SIZE


def base_action(patch_size: int, input_size: int) -> float:
    """The height and width action of a patch that needs no scaling: its side is `patch_size` pixels of the frame."""
    low = smallest_side(input_size)
    return (patch_size - low) / (input_size - low)


def cut_patches(images: Tensor, actions: Tensor, patch_size: int, input_size: int) -> Tensor:
    """Cut one patch out of each frame, resampled bilinearly, differentiable in the frames and the actions.

    images: [N, C, input_size, input_size]; actions: [N, 4] in [0, 1]. Returns [N, C, patch_size, patch_size]. What
    lies half a pixel outside the frame counts as zero, as in the published model.
    """
    corner, side = actions_to_boxes(actions, input_size)
    return _resample(images, corner, side, patch_size)


def cut_map_windows(maps: Tensor, actions: Tensor, patch_size: int, input_size: int) -> Tensor:
    """Cut out of each glance map [N, D, h, w] the window that stands for its frame's patch, differentiably.

    Returns [N, D, c, c] with c = patch_size // 32 cells. The window is scaled as its patch is, so that its side is
    c / patch_size cells for each pixel of the patch's: the same share of the map as the patch is of the frame where
    patch_size is a multiple of 32, and a little less elsewhere, as published. A patch_size below 32 has one cell, and
    its window the full share.
    """
    _, patch_side = actions_to_boxes(actions, input_size)
    cells = max(1, patch_size // STRIDE)  # frames smaller than the published ones have patches smaller than a cell
    side = patch_side * (cells / max(patch_size, STRIDE))
    corner = actions[..., :2] * (maps.shape[-1] - side)
    return _resample(maps, corner, side, cells)


def _resample(images: Tensor, corner: Tensor, side: Tensor, output_size: int) -> Tensor:
    """The boxes [N, 2] each, (y, x) and (height, width) in pixels of the square images, as squares of output_size."""
    image_size = images.shape[-1]
    # Places in a box and in the image, each spanning -1 .. 1. `F.affine_grid` is a matrix product, which TF32 would
    # round to a tenth of a pixel.
    places = (2 * torch.arange(output_size, dtype=side.dtype, device=side.device) + 1) / output_size - 1
    scale, centre = side / image_size, (2 * corner + side) / image_size - 1
    y, x = (scale.unsqueeze(-1) * places + centre.unsqueeze(-1)).unbind(1)  # [N, output_size] each
    grid = torch.stack(torch.broadcast_tensors(x.unsqueeze(1), y.unsqueeze(2)), dim=-1)  # [N, output_size, ..., 2]
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


def actions_to_boxes(actions: Tensor, input_size: int) -> tuple[Tensor, Tensor]:
    """Actions [..., 4] -> top left corner (y, x) and sides (height, width), both [..., 2] in pixels of the frame."""
    low = smallest_side(input_size)
    side = low + actions[..., 2:] * (input_size - low)
    return actions[..., :2] * (input_size - side), side


# The published training step runs this policy twice on the same features, once for each branch, which moves the running
# statistics by 0.1 twice. Here it runs once and moves them as far.
BATCH_NORM_MOMENTUM = 1 - (1 - 0.1) ** 2


class SpatialPolicy(nn.Module):
    """Glance maps of a whole video -> one action per glance frame."""

    def __init__(self, feature_dim: int, hidden_dim: int, map_size: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv3d(feature_dim, hidden_dim, kernel_size=1, bias=False),
            nn.BatchNorm3d(hidden_dim, momentum=BATCH_NORM_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden_dim, hidden_dim, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(hidden_dim, momentum=BATCH_NORM_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden_dim, hidden_dim, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(hidden_dim, momentum=BATCH_NORM_MOMENTUM),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden_dim, 4, kernel_size=(1, map_size, map_size), bias=False),
            nn.Sigmoid(),
        )

    def forward(self, glance_maps: Tensor) -> Tensor:
        """[B, G, D, h, w] -> actions [B, G, 4] in (0, 1)."""
        actions = self.encoder(glance_maps.transpose(1, 2))  # [B, 4, G, 1, 1]
        return actions.flatten(2).transpose(1, 2)


def actions_for_all_frames(glance_actions: Tensor, num_segments: int) -> Tensor:
    """[B, G, 4] -> [B, T, 4], linearly interpolated over time."""
    return F.interpolate(glance_actions.transpose(1, 2), num_segments, mode="linear", align_corners=False).transpose(
        1, 2
    )
