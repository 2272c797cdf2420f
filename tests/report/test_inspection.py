"""ops/report/inspection.py, with ops/stepwise.py: what is shown is what the network saw and said."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.spatial_policy import cut_patches
from models.uni_adafocus import UniAdaFocus
from ops.data.sources import ClipFrames
from ops.inference import prepare_for_inference
from ops.report.inspection import inspect_videos
from ops.utils.errors import UserError
from tests.shared import SMALL, thin_reference_model

VIDEOS = 4


@pytest.fixture(scope="module")
def model() -> UniAdaFocus:
    return thin_reference_model(4, **SMALL | {"num_segments": 8, "num_glance_segments": 4, "num_focus_segments": 3})


@pytest.fixture(scope="module")
def clips() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(VIDEOS * 8, 3, 4, 4, generator=generator)
    frames = torch.nn.functional.interpolate(255 * coarse, size=64, mode="bilinear")
    return frames.to(torch.uint8).unflatten(0, (VIDEOS, -1))


@pytest.mark.parametrize("prepare", [lambda model: model, prepare_for_inference])
def test_it_says_what_the_network_says(model, clips, prepare):
    with torch.no_grad():
        output = model(clips)
    expected = output.step_logits[:, 3:].softmax(-1).numpy()
    for video, found in enumerate(inspect_videos(prepare(model), ClipFrames(clips))):
        assert (found.num_segments, found.num_focus_segments, found.exit) == (8, 3, 3)
        assert found.glance_segments.tolist() == [1, 3, 5, 7]
        assert found.focus_segments.tolist() == output.focus_indices[video].tolist()
        np.testing.assert_allclose(found.step_probabilities, expected[video], atol=1e-4)
        np.testing.assert_allclose(found.frame_weights, output.frame_weights[video].numpy(), atol=1e-4)
        np.testing.assert_allclose(found.actions, output.glance_actions[video].numpy(), atol=1e-4)


def test_it_shows_the_frames_and_the_patches_inside_the_boxes(model, clips):
    for clip, found in zip(clips, inspect_videos(model, ClipFrames(clips)), strict=True):
        pictures = clip.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found.glance_frames, pictures[found.glance_segments])
        assert np.array_equal(found.focus_frames, pictures[found.focus_segments])
        boxes = torch.from_numpy(found.boxes)
        assert (boxes[:, 2:] >= 64 * 96 / 224 - 1e-3).all() and (boxes[:, :2] + boxes[:, 2:] <= 64 + 1e-3).all()
        low = 64 * 96 / 224
        actions = torch.cat([boxes[:, :2] / (64 - boxes[:, 2:]), (boxes[:, 2:] - low) / (64 - low)], dim=1)
        inside = cut_patches(clip[found.focus_segments].float(), actions, 32, 64).permute(0, 2, 3, 1).numpy()
        # At the edge of the frame the network mixes in what it takes for zero, which is not black.
        np.testing.assert_allclose(found.patches[:, 1:-1, 1:-1], inside[:, 1:-1, 1:-1], atol=1.01)


def test_a_model_in_training_mode_is_refused(small_model):
    with pytest.raises(ValueError, match="training mode"):
        inspect_videos(small_model.train(), ClipFrames(torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8)))


def test_logits_that_are_not_finite_are_an_error(small_model):
    torch.nn.init.constant_(small_model.classifier.global_classifiers[-1][-1].bias, math.nan)
    with pytest.raises(UserError, match="not finite"):
        inspect_videos(small_model.eval(), ClipFrames(torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8)))
