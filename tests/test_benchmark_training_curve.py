"""Training with dropout against the published training: losses by term, within the spread of single runs."""

import pytest
import torch

from benchmarks import training_curve
from ops.losses import LOSS_NAMES
from tests.conftest import torch_threads

TOO_FAR = 5  # standard deviations, themselves estimated from six runs


def test_losses_of_the_first_steps_are_those_of_the_published_training():
    reference = training_curve.read_reference()
    with torch_threads(torch.get_num_threads()):
        runs = [training_curve.train(reference["config"], seed, steps=4) for seed in (1, 2)]
    found = list(training_curve.distances(reference, runs))
    assert [name for _, name, *_ in found] == [
        "cat",
        "global",
        "local",
        "temporal",
        "spatial",
        "KL_div",
        "norm",
        "loss",
    ]
    assert {name for _, name, *_ in found} == set(LOSS_NAMES)
    assert {window for window, *_ in found} == {"0..3"}
    assert not [row for row in found if abs(row[-1]) > TOO_FAR]


def test_swapped_dropouts_are_many_deviations_off():
    reference = training_curve.read_reference()
    config = reference["config"]
    swapped = config | {"dropout": config["fc_dropout"], "fc_dropout": config["dropout"]}
    runs = [training_curve.train(swapped, 1, steps=4)]
    far = {name for _, name, *_, distance in training_curve.distances(reference, runs) if abs(distance) > 2 * TOO_FAR}
    assert far >= {"cat", "local", "loss"}


def test_distances_are_in_deviations_of_the_difference_of_two_means():
    reference = {"runs": 2, "windows": {"0..1": {"cat": {"mean": 3.0, "std_of_a_run": 0.5}}, "2..9": {}}}
    runs = [[{"cat": 1.0}, {"cat": 3.0}], [{"cat": 4.0}, {"cat": 6.0}]]
    assert list(training_curve.distances(reference, runs)) == [("0..1", "cat", 3.0, 3.5, pytest.approx(1.0))]
