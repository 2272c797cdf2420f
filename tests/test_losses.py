"""The loss terms by their definitions; their published values are checked in test_uni_adafocus.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.uni_adafocus import TrainingOutput
from ops.losses import LOSS_NAMES, training_losses
from tests.shared import random_output


@pytest.fixture
def out() -> TrainingOutput:
    return TrainingOutput(policy=random_output(0), random=random_output(1))


def test_each_cross_entropy_is_summed_over_the_branches_and_averaged_over_the_steps(out):
    target = torch.tensor([1, 4])
    losses = training_losses(out, target, kl_ratio=0, norm_ratio=0)
    expected = sum(
        torch.stack([F.cross_entropy(branch.step_logits[:, step], target) for step in range(5)]).mean()
        for branch in (out.policy, out.random)
    )
    torch.testing.assert_close(losses["cat"], expected)


def test_the_total_weighs_the_terms(out):
    losses = training_losses(out, torch.tensor([1, 4]), kl_ratio=0.3, norm_ratio=0.7)
    assert tuple(losses) == LOSS_NAMES
    heads = sum(losses[name] for name in ("cat", "global", "local", "temporal", "spatial"))
    torch.testing.assert_close(losses["loss"], heads / 2 + 0.3 * losses["KL_div"] + 0.7 * losses["norm"])


def test_even_frame_weights_have_no_divergence_and_one_frame_has_the_log_of_their_number():
    even = TrainingOutput(policy=random_output(0, glance=4, focus=4), random=random_output(1, glance=4, focus=4))
    even.policy.frame_weights.copy_(torch.full((2, 4), 0.25))
    assert float(training_losses(even, torch.tensor([0, 0]), 1, 0)["KL_div"]) == pytest.approx(0, abs=1e-6)
    even.policy.frame_weights.copy_(F.one_hot(torch.tensor([2, 0]), 4))
    assert float(training_losses(even, torch.tensor([0, 0]), 1, 0)["KL_div"]) == pytest.approx(math.log(4))


def test_whole_frames_have_no_norm(out):
    out.policy.glance_actions[..., 2:] = 1
    assert float(training_losses(out, torch.tensor([0, 0]), 0, 1)["norm"]) == 0


def test_frame_weights_are_compared_with_one_share_for_each_patch_and_not_for_each_glance():
    out = TrainingOutput(policy=random_output(0, glance=4, focus=2), random=random_output(1, glance=4, focus=2))
    out.policy.frame_weights.copy_(torch.full((2, 4), 0.25))
    assert float(training_losses(out, torch.tensor([0, 0]), 1, 0)["KL_div"]) == pytest.approx(math.log(2 / 4))
