"""Cutting patches against the published model, and what an action means."""

import numpy as np
import pytest
import torch

from models.spatial_policy import (
    actions_for_all_frames,
    actions_to_boxes,
    base_action,
    cut_map_windows,
    cut_patches,
)
from tests.reference import recipe
from tests.shared import REFERENCE


@pytest.fixture(scope="module")
def reference():
    return np.load(REFERENCE / "functions.npz")


def _frames() -> torch.Tensor:
    return torch.from_numpy(recipe._uniform("shared/patch_frames", (6, 3, 224, 224), -2, 2))


def _averaged(patches: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.avg_pool2d(patches, 8).numpy()


@pytest.mark.parametrize(
    ("size", "shrink"),
    [(96, lambda patches: patches[:2, :, ::4, ::4].numpy()), (128, _averaged), (192, _averaged)],
)
def test_patches_of_frames_are_the_published_ones(reference, size, shrink):
    patches = cut_patches(_frames(), torch.from_numpy(reference["patch_actions"]), size, 224)
    np.testing.assert_allclose(shrink(patches), reference[f"patch{size}"], atol=2e-4)


def test_patches_of_feature_maps_are_the_published_ones(reference):
    maps = torch.from_numpy(recipe._uniform("shared/patch_map", (6, 32, 7, 7), 0, 1))
    windows = cut_map_windows(maps, torch.from_numpy(reference["patch_actions"]), 128, 224)
    np.testing.assert_allclose(windows.numpy(), reference["patch_map4"], atol=1e-4)


@pytest.mark.parametrize(
    ("patch_size", "cells", "side"),
    [(128, 4, 4 * 160 / 128), (96, 3, 3 * 160 / 96), (112, 3, 3 * 160 / 112), (144, 4, 4 * 160 / 144), (224, 7, 5.0)],
)
def test_a_window_of_a_feature_map_is_scaled_as_its_patch_is(patch_size, cells, side):
    """With maps that hold their own coordinates, the mean of a window is its centre."""
    action = torch.tensor([[0.25, 0.75, 0.5, 0.5]])  # sides of 160 pixels
    places = torch.arange(7) + 0.5
    maps = torch.stack(torch.meshgrid(places, places, indexing="ij"))[None]  # y, x
    windows = cut_map_windows(maps, action, patch_size, 224)
    assert windows.shape == (1, 2, cells, cells)
    centre = [share * (7 - side) + side / 2 for share in (0.25, 0.75)]
    assert windows.mean(dim=(2, 3))[0].tolist() == pytest.approx(centre, abs=1e-5)


def test_frames_smaller_than_the_published_ones_have_windows_of_one_cell():
    maps = torch.ones(2, 3, 1, 1)
    windows = cut_map_windows(maps, torch.full((2, 4), 0.5), 20, 32)
    assert windows.shape == (2, 3, 1, 1) and (windows > 0.5).all()


def test_a_patch_of_the_base_size_on_whole_pixels_is_a_plain_crop():
    size = base_action(128, 224)
    actions = torch.tensor([[32 / 96, 64 / 96, size, size]]).repeat(6, 1)
    frames = _frames()
    torch.testing.assert_close(cut_patches(frames, actions, 128, 224), frames[:, :, 32:160, 64:192], atol=1e-3, rtol=0)


def test_boxes_stay_inside_the_frame_from_the_smallest_side_to_the_whole():
    actions = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.5], [0.3, 0.9, 1.0, 1.0]])
    corner, side = actions_to_boxes(actions, 224)
    assert side.tolist() == [[96, 96], [96, 160], [224, 224]]
    assert corner.tolist() == [[0, 0], [128, 64], [0, 0]]


def test_gradients_reach_the_actions():
    actions = torch.full((6, 4), 0.4, requires_grad=True)
    cut_map_windows(torch.randn(6, 8, 7, 7), actions, 128, 224).square().sum().backward()
    assert (actions.grad.abs() > 0).all()


def test_actions_between_glances_are_interpolated():
    glance_actions = torch.tensor([[[0.0] * 4, [1.0] * 4]])
    assert actions_for_all_frames(glance_actions, 4)[0, :, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
