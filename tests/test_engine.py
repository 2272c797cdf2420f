"""Bookkeeping of an epoch; whole epochs are tested through main.py."""

import pytest
import torch

from ops.engine import collect, seed_step
from ops.errors import UserError
from ops.loss_history import LossHistory
from ops.losses import LOSS_NAMES


def _losses(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value + number) for number, name in enumerate(LOSS_NAMES)}


def test_means_are_over_the_line_and_over_the_epoch():
    history = LossHistory(0, str)
    history.append(_losses(1.0), torch.tensor([0]))
    history.append(_losses(3.0), torch.tensor([1]))
    assert history.flush()["loss"] == pytest.approx(2.0)
    history.append(_losses(8.0), torch.tensor([2]))
    assert history.flush()["cat"] == pytest.approx(9.0)
    assert history.means()["loss"] == pytest.approx(4.0)


def test_the_first_step_that_is_not_finite_is_named_with_its_videos():
    history = LossHistory(4, lambda index: f"video{index}")
    history.append(_losses(1.0), torch.tensor([0, 1]))
    history.flush()
    history.append(_losses(1.0), torch.tensor([2, 3]))
    history.append(_losses(float("nan")), torch.tensor([5, 6]))
    history.append(_losses(float("inf")), torch.tensor([7, 8]))
    with pytest.raises(UserError, match=r"epoch 4, step 2: loss nan, .*videos of the batch: video5, video6\."):
        history.flush()


def test_a_step_draws_the_same_again_and_other_steps_draw_others():
    def draw(*where):
        seed_step(*where)
        return float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)}) == 4


@torch.no_grad()
def test_a_process_without_videos_collects_nothing_of_the_right_shape(small_model):
    rows, indices = collect(
        small_model.eval(), [], torch.device("cpu"), lambda output: {"all": output.step_logits, "last": output.logits}
    )
    assert rows["all"].shape == (0, 5, 4) and rows["last"].shape == (0, 4) and len(indices) == 0
