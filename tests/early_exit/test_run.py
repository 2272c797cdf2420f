"""ops/early_exit/run.py: curves with what they are compared with."""

import shlex

import numpy as np
import pytest
import torch

from ops.early_exit.curve import compute_curves
from ops.early_exit.run import curve_table, halves, published_figures
from ops.flops import cost_table
from ops.metrics import main_metric
from opts import add_early_exit_options, build_parser, parse_options
from tests.shared import REFERENCE


def published_options(*changes: str):
    """The options of the published command of early exit, with changes."""
    text = (REFERENCE / "published_commands.txt").read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "test_early_exit" in line)
    parser = build_parser("test")
    add_early_exit_options(parser)
    return parse_options(parser, [*shlex.split(command.split(".py", 1)[1]), *changes])


def test_the_published_command_is_compared_with_the_published_figures():
    assert published_figures(published_options(), "map") == [(27.2, 80.7), (18.1, 80.4), (9.1, 78.3)]
    assert published_figures(published_options("--dataset", "minik"), "accuracy")[0] == (27.2, 75.8)
    assert published_figures(published_options("--dataset", "fcvid"), "map")[2] == (9.1, 85.4)


@pytest.mark.parametrize(
    "change",
    [["--patch_size", "96"], ["--dataset", "mine"], ["--calibrate_on", "val_half"], ["--glance_arch", "res50"]],
)
def test_other_settings_are_compared_with_nothing(change):
    assert published_figures(published_options(*change), "map") == []


def test_another_metric_is_compared_with_nothing():
    assert published_figures(published_options(), "accuracy") == []


@pytest.mark.parametrize("videos", [2, 7, 100])
def test_halves_share_no_video_and_are_always_the_same(videos):
    thresholds, evaluated = halves(videos)
    assert len(thresholds) == videos // 2
    assert sorted([*thresholds, *evaluated]) == list(range(videos))
    assert all(np.array_equal(*pair) for pair in zip(halves(videos), (thresholds, evaluated), strict=True))


def test_halves_are_not_the_two_ends_of_a_sorted_split():
    thresholds, evaluated = halves(1000)
    assert abs(thresholds.mean() - evaluated.mean()) < 50


@pytest.mark.parametrize("metric", ["accuracy", "map"])
def test_fixed_exits_are_the_metric_of_each_exit_alone(metric):
    generator = torch.Generator().manual_seed(0)
    calibration, logits = torch.randn(2, 40, 3, 4, generator=generator)
    labels = torch.randint(4, (40, 1), generator=generator)
    curves = compute_curves(calibration, logits, labels, [1.0, 2.0, 3.0], metric, seed=0)
    assert curves.fixed == [main_metric(logits[:, number], labels, metric) for number in range(3)]
    assert [len(points) for points in curves.points.values()] == [19, 19]
    for criterion, points in curves.points.items():
        rows = list(curve_table(criterion, curves))[2:]
        assert [float(row.split()[1]) for row in rows] == pytest.approx([p.gflops for p in points], abs=1e-3)


def test_the_cost_table_has_a_line_for_each_exit():
    assert [line.split() for line in cost_table([4.89, 7.06])][1:] == [["exit", "0", "4.8900"], ["exit", "1", "7.0600"]]
