"""The step-by-step classifier."""

import pytest
import torch

from models.aggregator import Aggregator


@pytest.fixture
def aggregator() -> Aggregator:
    torch.manual_seed(0)
    return Aggregator(glance_dim=10, focus_dim=12, num_glance=3, num_focus=4, num_classes=5, dropout=0.5).eval()


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 10), torch.randn(2, 4, 12)


@torch.no_grad()
def test_a_step_sees_the_steps_before_it_and_no_later_one(aggregator, features):
    glance, focus = features
    logits = aggregator(glance, focus)
    focus[:, 2:] += 1
    changed = aggregator(glance, focus)
    assert logits.shape == (2, 7, 5)
    assert torch.equal(logits[:, :5], changed[:, :5])
    assert not torch.equal(logits[:, 5], changed[:, 5]) and not torch.equal(logits[:, 6], changed[:, 6])


@torch.no_grad()
def test_focus_steps_one_by_one_are_the_steps_at_once(aggregator, features):
    glance, focus = features
    at_once = aggregator(glance, focus)
    glance_logits, glance_pooled = aggregator.glance_steps(glance)
    steps, pooled = [glance_logits], None
    for step in range(4):
        logits, pooled = aggregator.focus_steps(focus[:, step : step + 1], glance_pooled, step, pooled)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), at_once)


@torch.no_grad()
def test_the_pooling_is_a_running_maximum_of_the_projections(aggregator, features):
    glance, focus = features
    projected = torch.stack([aggregator.global_mlp(glance[:, step]) for step in range(3)], dim=1)
    pooled = projected[:, :2].amax(1)
    torch.testing.assert_close(aggregator(glance, focus)[:, 1], aggregator.global_classifiers[1](pooled))
