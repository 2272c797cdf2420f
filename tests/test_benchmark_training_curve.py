"""Training with dropout against the published training: losses by term, within the spread of single runs."""

import pytest

from benchmarks import training_curve
from ops.losses import LOSS_NAMES

TOO_FAR = 5  # standard deviations, which six runs tell roughly; with the dropouts swapped, three terms are 10 off


def test_losses_of_the_first_steps_are_those_of_the_published_training():
    reference = training_curve.read_reference()
    found = list(training_curve.distances(reference, [training_curve.train(reference["config"], 1, steps=4)]))
    assert {name for _, name, *_ in found} == set(LOSS_NAMES)
    assert {window for window, *_ in found} == {"0..3"}
    assert not [row for row in found if abs(row[-1]) > TOO_FAR]


def test_distances_are_in_deviations_of_the_difference_of_two_means():
    reference = {"runs": 2, "windows": {"0..1": {"cat": {"mean": 3.0, "std_of_a_run": 0.5}}, "2..9": {}}}
    runs = [[{"cat": 1.0}, {"cat": 3.0}], [{"cat": 4.0}, {"cat": 6.0}]]
    assert list(training_curve.distances(reference, runs)) == [("0..1", "cat", 3.0, 3.5, pytest.approx(1.0))]
