"""ops/early_exit/agreement.py: what rounding explains is called so, and nothing else is."""

import dataclasses

import pytest
import torch

from ops.early_exit.agreement import compare_with_simulation
from ops.early_exit.inference import Answer

THRESHOLDS = [2.0, 3.0, -float("inf")]


@pytest.fixture
def logits() -> torch.Tensor:
    """Five videos, three exits, two classes; by confidence they leave at exits 0, 1, 2, 2, 1."""
    return torch.tensor(
        [
            [[2.5, 0.0], [0.0, 9.0], [9.0, 0.0]],
            [[1.0, 1.5], [0.0, 3.5], [9.0, 0.0]],
            [[1.0, 1.5], [2.0, 2.5], [4.0, 4.00005]],
            [[1.0, 1.5], [2.0, 2.99995], [1.0, 4.0]],
            [[1.0, 1.5], [3.00005, 2.0], [1.0, 4.0]],
        ]
    )


@pytest.fixture
def answer(logits) -> Answer:
    exits = torch.tensor([0, 1, 2, 2, 1])
    frames = torch.tensor([[-1, -1], [2, 5], [2, 5], [2, 5], [2, 5]])
    return Answer(logits[range(5), exits], exits, exits.clone(), frames)


def compare(answer: Answer, logits: torch.Tensor):
    return compare_with_simulation(answer, logits, torch.tensor([[2, 5]] * 5), THRESHOLDS, "confidence")


def changed(answer: Answer, video: int, **values: object) -> Answer:
    """The answer with other values for one video."""
    parts = {name: part.clone() for name, part in vars(answer).items()}
    for name, value in values.items():
        parts[name][video] = torch.as_tensor(value)
    return dataclasses.replace(answer, **parts)


def test_the_simulations_answers_agree_without_difference(answer, logits):
    agreement = compare(answer, logits)
    assert (agreement.ties, agreement.other_frames, agreement.unexplained) == ((), (), ())
    assert agreement.difference == 0
    assert agreement.describe(str).startswith("5 of 5 videos: the exit and the prediction of the simulation.")


@pytest.mark.parametrize(("video", "exit_number"), [(3, 1), (4, 2)])
def test_another_exit_is_a_tie_where_the_value_is_at_the_threshold(answer, logits, video, exit_number):
    agreement = compare(changed(answer, video, exits=exit_number, logits=logits[video, exit_number]), logits)
    assert agreement.ties == (video,) and agreement.unexplained == ()


@pytest.mark.parametrize(("video", "exit_number"), [(0, 1), (1, 0), (1, 2), (3, 0), (4, 0)])
def test_another_exit_is_unexplained_elsewhere(answer, logits, video, exit_number):
    agreement = compare(changed(answer, video, exits=exit_number, logits=logits[video, exit_number]), logits)
    assert agreement.unexplained == (video,) and agreement.ties == ()
    assert f"1 DIFFER: number {video}" in agreement.describe("number {}".format)


def test_another_class_is_a_tie_where_two_are_level_and_unexplained_elsewhere(answer, logits):
    level = compare(changed(answer, 2, logits=[4.0001, 4.0]), logits)
    assert level.ties == (2,) and level.unexplained == ()
    assert level.difference == pytest.approx(1e-4, rel=0.1)
    assert compare(changed(answer, 1, logits=[3.5, 0.0]), logits).unexplained == (1,)


def test_a_frame_next_to_the_simulations_explains_another_prediction_and_one_further_off_does_not(answer, logits):
    values = {"exits": 2, "logits": [0.0, 5.0]}
    assert compare(changed(answer, 1, focus_indices=[3, 5], **values), logits).other_frames == (1,)
    assert compare(changed(answer, 1, focus_indices=[4, 5], **values), logits).unexplained == (1,)
