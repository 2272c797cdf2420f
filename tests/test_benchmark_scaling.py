"""benchmarks/scaling.py and the table of all benchmarks."""

import pytest
import torch

from benchmarks.rows import Row, table
from benchmarks.scaling import (
    exit_curves_row,
    exponent,
    gather,
    metrics_over_videos,
    metrics_row,
    published_average_precision,
    random_labels,
    show_growth,
)
from ops.metrics import mean_average_precision


def test_exponents_tell_linear_growth_from_quadratic():
    assert exponent([1, 2, 4], [5, 10, 20]) == pytest.approx(1)
    assert exponent([1, 2, 4], [1, 4, 16]) == pytest.approx(2)
    assert exponent([1, 2, 4], [3, 3, 3]) == pytest.approx(0)


def test_growth_is_shown_from_line_to_line(capsys):
    show_growth("something", [1, 2], [1.0, 3.0], [0.5, 0.5])
    _, _, first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["1", "1.00", "0.500"]
    assert second.split() == ["2", "3.00", "0.500", "3.00", "1.00"]
    assert last.split() == ["exponent", "1.58", "0.00"]


def test_the_published_way_gives_the_same_average_precision():
    logits, labels = torch.randn(60, 5), random_labels(60, 5)
    ours = mean_average_precision(logits, labels)[1]
    torch.testing.assert_close(published_average_precision(logits, labels), ours.float(), rtol=1e-4, atol=1e-4)


def test_metrics_are_those_of_an_evaluation():
    by_map, by_accuracy = metrics_over_videos(30, 4)()
    assert "smAP" in by_map and "Acc_pred@5" in by_accuracy
    assert metrics_row(30, 4).ratio > 0


def test_the_early_exit_curves_are_those_of_the_published_way():
    row = exit_curves_row(train_videos=40, videos=30, exits=3, classes=4)
    assert float(row.difference.split()[0]) < 1e-4 and row.ratio > 0


def test_gathering_takes_the_result_and_shares_and_no_copy_for_each_process():
    _, gigabytes = gather(2, 40_000, 400)
    assert gigabytes < 1.7 * 40_000 * 400 * 4 / 1e9  # all processes' rows in full would be twice the result or more


def test_the_table_has_a_line_for_each_claim():
    lines = table([Row("loading, videos/s", 4.0, 12.0, 3.0, "1 grey level"), Row("other", None, 250.4, None, "")])
    heads, loading, other = lines.splitlines()
    assert heads.split() == ["what", "yardstick", "ours", "ratio", "largest", "difference", "of", "outputs"]
    assert loading.split() == ["loading,", "videos/s", "4.00", "12.00", "3.00", "1", "grey", "level"]
    assert other.split() == ["other", "-", "250", "-"]
