"""ops/early_exit/thresholds.py: curves and thresholds on disk, and thresholds of another model refused."""

import csv
import json

import numpy as np
import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import ExitCurves, ExitPoint, compute_curves
from ops.early_exit.thresholds import Weights, read_thresholds, write_curve, write_thresholds
from ops.utils.errors import UserError
from tests.shared import SMALL


@pytest.fixture
def curves() -> ExitCurves:
    train, val = torch.randn(2, 30, 3, 4, generator=torch.Generator().manual_seed(0))
    return compute_curves(train, val, torch.zeros(30, 1).long(), [1.0, 2.0, 3.0], "accuracy", seed=0)


@pytest.fixture
def points(curves) -> list[ExitPoint]:
    return curves.points["entropy"]


@pytest.fixture
def path(curves, small_model, tmp_path):
    path = tmp_path / "early_exit_entropy.json"
    weights = Weights(tmp_path / "some.pth.tar", "a" * 64)
    write_thresholds(path, curves, "entropy", "train", small_model, weights)
    return path


def test_thresholds_come_back_to_the_last_bit(points, path, small_model):
    for point in points:
        thresholds, criterion = read_thresholds(path, point.p, small_model, "a" * 64)
        assert criterion == "entropy" and thresholds.dtype == np.float32
        np.testing.assert_array_equal(thresholds, point.thresholds)


def test_the_file_is_plain_json_that_says_what_it_belongs_to(path, tmp_path):
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["checkpoint"] == {"path": str(tmp_path / "some.pth.tar"), "sha256": "a" * 64}
    assert content["model"] | SMALL == content["model"]
    assert [point["p"] for point in content["points"]] == list(range(1, 20))
    assert content["points"][0]["thresholds"][2] is None and content["points"][0]["thresholds"][0] < 0


def test_thresholds_of_another_model_are_refused(path, small_model):
    other = UniAdaFocus(5, **(SMALL | {"patch_size": 40}))
    with pytest.raises(UserError, match="another model: num_classes 4, here 5; patch_size 32, here 40"):
        read_thresholds(path, 3, other, "a" * 64)
    with pytest.raises(UserError, match=r"another checkpoint \(.*some.pth.tar, SHA-256 aaaaaaaaaaaa\)"):
        read_thresholds(path, 3, small_model, "b" * 64)


def test_a_file_that_is_absent_or_something_else_is_one_line(path, small_model):
    with pytest.raises(UserError, match="do not exist"):
        read_thresholds(path.with_name("nowhere.json"), 3, small_model, "a" * 64)
    with pytest.raises(UserError, match="no operating point 20: choose one of 1, 2"):
        read_thresholds(path, 20, small_model, "a" * 64)
    for text in ("", "[]", "{}", '{"criterion": 1', "null", "\0", "[" * 10**5):
        path.write_text(text)
        with pytest.raises(UserError, match="holds no thresholds"):
            read_thresholds(path, 3, small_model, "a" * 64)


@pytest.mark.parametrize(
    "damage",
    [
        {"criterion": "luck"}, {"criterion": []}, {"model": None}, {"model": 3}, {"checkpoint": {"sha256": None}},
        {"points": None}, {"points": [1]}, {"points": [{"p": []}]}, {"points": [{"p": float("inf"), "thresholds": []}]},
        *({"points": [{"p": 3, "thresholds": row}]} for row in (
            None, 1, [], [1.0], [1.0] * 4, ["a", 1, None], [[1], 1, None], [float("nan"), 1.0, None], {"a": 1},
            [1.0, float("-inf"), None], [10**400, 1.0, None],
        )),
    ],
)  # fmt: skip
def test_damaged_thresholds_are_one_line(damage, path, small_model):
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(UserError, match=r"early_exit_entropy\.json") as caught:
        read_thresholds(path, 3, small_model, "a" * 64)
    assert "\n" not in str(caught.value)


def test_the_curve_is_a_table_with_a_row_for_each_point(points, tmp_path):
    write_curve(tmp_path / "curve.csv", points)
    with open(tmp_path / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["p", "gflops", "metric", "random_metric", "exit_0", "exit_1", "exit_2"]
    for row, point in zip(rows, points, strict=True):
        expected = [point.p, point.gflops, point.metric, point.random_metric, *point.exit_ratio]
        assert [float(value) for value in row.values()] == pytest.approx(expected, rel=1e-5)
