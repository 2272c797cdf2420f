"""Frame sampling against the published model, and the Monte-Carlo signal against its definition."""

import itertools

import numpy as np
import pytest
import torch

from models.temporal_policy import expected_logits, sample_focus_frames
from tests.shared import REFERENCE


@pytest.mark.parametrize("case", range(4))
def test_weights_give_the_published_frames(case):
    reference = np.load(REFERENCE / "functions.npz")
    num_segments, _, num_focus = reference[f"sampling{case}_config"].tolist()
    weights = torch.from_numpy(reference[f"sampling{case}_weights"])
    frames = sample_focus_frames(weights, num_segments, num_focus, offsets=0.5)
    assert frames.tolist() == reference[f"sampling{case}_indices"].tolist()


def test_frames_are_distinct_in_order_and_inside_the_video_whatever_the_weights():
    torch.manual_seed(0)
    weights = torch.softmax(torch.randn(200, 8) * torch.tensor([0.1, 3.0, 30.0, 300.0]).repeat(50).unsqueeze(1), dim=1)
    for num_segments, num_focus in ((24, 6), (24, 24), (8, 8), (48, 1)):
        frames = sample_focus_frames(weights, num_segments, num_focus, torch.rand(200, num_focus))
        assert (frames.diff(dim=1) > 0).all()
        assert frames.min() >= 0 and frames.max() < num_segments


def test_many_frames_come_from_where_the_weight_is():
    weights = torch.tensor([[0.0, 1.0, 0.0, 0.0]])
    assert sample_focus_frames(weights, 40, 8, offsets=0.5).tolist() == [[10, 11, 13, 14, 15, 16, 18, 19]]


def _by_definition(weights: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The expectation over all sequential draws, by enumeration."""
    num_glance = len(weights)
    total = torch.zeros(logits.shape[1], dtype=torch.float64)
    removals = range(max(1, num_glance // 3))
    for removed in removals:
        for drawn in itertools.permutations(range(num_glance), removed):
            probability, left = 1.0, 1.0
            for frame in drawn:
                probability *= float(weights[frame]) / left
                left -= float(weights[frame])
            rest = [frame for frame in range(num_glance) if frame not in drawn]
            total += probability * (weights[rest] @ logits[rest]) / weights[rest].sum()
    return total / len(removals)


def test_expected_logits_are_the_mean_over_draws_without_replacement():
    torch.manual_seed(1)
    weights = torch.softmax(torch.randn(1, 9, dtype=torch.float64), dim=1)
    logits = torch.randn(1, 9, 3, dtype=torch.float64)
    estimate = torch.stack([expected_logits(weights, logits) for _ in range(400)]).mean(0)
    torch.testing.assert_close(estimate[0], _by_definition(weights[0], logits[0]), rtol=0, atol=5e-3)


def test_gradients_reach_the_weights_but_not_their_normaliser():
    weights = torch.tensor([[0.5, 0.3, 0.2]], requires_grad=True)
    logits = torch.tensor([[[1.0], [2.0], [3.0]]], requires_grad=True)
    expected_logits(weights, logits).sum().backward()  # three frames: none is ever taken out
    assert weights.grad.flatten().tolist() == pytest.approx([1.0, 2.0, 3.0])
    assert logits.grad.flatten().tolist() == pytest.approx([0.5, 0.3, 0.2])


def test_one_frame_with_all_the_weight_does_no_harm():
    weights = torch.zeros(1, 9)
    weights[0, 4] = 1.0
    assert expected_logits(weights, torch.randn(1, 9, 3)).isfinite().all()


def test_with_a_generator_a_videos_signal_does_not_depend_on_its_batch():
    torch.manual_seed(2)
    weights, logits = torch.softmax(torch.randn(5, 9), dim=1), torch.randn(5, 9, 3)
    together = expected_logits(weights, logits, torch.Generator().manual_seed(7))
    alone = expected_logits(weights[3:4], logits[3:4], torch.Generator().manual_seed(7))
    torch.testing.assert_close(together[3:4], alone)
