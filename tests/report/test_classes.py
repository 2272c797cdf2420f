"""ops/report/classes.py: figures of each class, against values computed by hand."""

import csv
import warnings

import numpy as np
import pytest
import torch

from ops.report.classes import (
    class_results,
    confusion_figure,
    confusion_matrix,
    has_one_label,
    per_class_table,
    write_per_class,
)

NAMES = ["run", "jump, high", "dive", "row"]
# Predicted: run, jump, jump, dive, jump, run. Nobody rows.
LOGITS = torch.tensor(
    [[5, 1, 0, 0], [1, 5, 0, 0], [3, 4, 0, 0], [0, 0, 5, 1], [0, 4, 3, 0], [4, 0, 3, 0]], dtype=torch.float32
)  # fmt: skip
SINGLE = torch.tensor([[0, -1, -1], [1, -1, -1], [0, -1, -1], [2, -1, -1], [2, -1, -1], [2, -1, -1]])
SEVERAL = torch.tensor([[0, -1, -1], [1, 0, -1], [0, -1, -1], [2, -1, -1], [2, 1, -1], [2, -1, -1]])


def test_accuracy_and_confusions_of_each_class():
    results = class_results(LOGITS, SINGLE, "accuracy", NAMES)
    assert [result.videos for result in results] == [2, 1, 3, 0]
    assert [result.predicted for result in results] == [2, 3, 1, 0]
    assert [result.score for result in results[:3]] == pytest.approx([50, 100, 100 / 3])
    assert np.isnan(results[3].score)
    # Of the three dives one is taken for a jump and one for a run: the lower number stands for both.
    assert [(result.confused_with, result.confused_videos) for result in results] == [
        (1, 1), (None, 0), (0, 1), (None, 0)
    ]  # fmt: skip


def test_average_precision_of_each_class_with_several_labels():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the evaluation has warned of the class without videos
        results = class_results(LOGITS, SEVERAL, "map", NAMES)
    assert [result.videos for result in results] == [3, 2, 3, 0]
    # run: its probability ranks the videos 0, 5, 2, 1, ..; positives 0, 1, 2 come at ranks 1, 3, 4.
    assert results[0].score == pytest.approx(100 * (1 / 1 + 2 / 3 + 3 / 4) / 3)
    # jump: 1, then 2 and 4 (0.731 each but for what the rest takes), then 0; positives 1 and 4.
    order = LOGITS.softmax(1)[:, 1].argsort(descending=True).tolist()
    ranks = sorted(order.index(video) + 1 for video in (1, 4))
    assert results[1].score == pytest.approx(100 * (1 / ranks[0] + 2 / ranks[1]) / 2)
    assert [result.confused_with for result in results] == [None] * 4  # which of two labels would be confused?


def test_the_table_is_written_with_names_and_empty_cells(tmp_path):
    write_per_class(tmp_path / "a.csv", class_results(LOGITS, SINGLE, "accuracy", NAMES), "accuracy")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["class", "name", "videos", "accuracy", "predicted", "confused_with", "confused_videos"],
        ["0", "run", "2", "50.0000", "2", "jump, high", "1"],
        ["1", "jump, high", "1", "100.0000", "3", "", ""],
        ["2", "dive", "3", "33.3333", "1", "run", "1"],
        ["3", "row", "0", "", "0", "", ""],
    ]
    write_per_class(tmp_path / "b.csv", class_results(LOGITS, SEVERAL, "map", NAMES), "map")
    assert (tmp_path / "b.csv").read_text().splitlines()[0].split(",")[3] == "AP"


def test_a_name_is_no_formula_to_a_spreadsheet(tmp_path):
    names = ["=1+1", "+run", "-jump", " @row"]
    write_per_class(tmp_path / "a.csv", class_results(LOGITS, SINGLE, "accuracy", names), "accuracy")
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["'=1+1", "'+run", "'-jump", "' @row"]
    assert rows[0]["confused_with"] == "'+run" and rows[0]["videos"] == "2"


def test_the_worst_class_comes_first_in_tensorboard_and_names_stay_text():
    names = ["a|b", "*bold*", "<b>", "_"]
    lines = per_class_table(class_results(LOGITS, SINGLE, "accuracy", names), "accuracy").splitlines()
    assert [line.split(" | ")[0].lstrip("| ") for line in lines[2:]] == ["2", "0", "1", "3"]
    assert r"| \<b\> | 3 | 33.33 | 1 |" in lines[2] and r"a\|b" in lines[3] and r"\*bold\*" in lines[4]


def test_the_confusion_matrix_counts_true_classes_in_rows():
    assert has_one_label(SINGLE) and not has_one_label(SEVERAL)
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert confusion_matrix(LOGITS, SINGLE).tolist() == expected


def test_the_picture_of_the_confusions_has_names_and_percentages():
    figure = confusion_figure(confusion_matrix(LOGITS, SINGLE), ["$run$", "_jump", "dive", "row"])
    axes = figure.axes[0]
    shares = axes.images[0].get_array()
    np.testing.assert_allclose(shares[:3].filled(-1), [[50, 50, 0, 0], [0, 100, 0, 0], [100 / 3] * 3 + [0]])
    assert np.ma.getmaskarray(shares)[3].all()  # no video: neither 0 nor 100 percent
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [r"\$run\$", "_jump", "dive", "row"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


@pytest.mark.parametrize("classes", [1, 2, 40, 41, 200, 400])
def test_any_number_of_classes_fits_into_a_picture(classes):
    generator = np.random.default_rng(0)
    matrix = generator.integers(0, 3, (classes, classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = confusion_figure(matrix, [f"a rather long name of a class {number}" for number in range(classes)])
        figure.canvas.draw()
    assert max(figure.get_size_inches()) < 10
    renderer = figure.canvas.get_renderer()
    axes = figure.axes[0]
    width, height = figure.canvas.get_width_height()
    for label in (axes.xaxis.label, axes.yaxis.label, figure.axes[1].yaxis.label):
        box = label.get_window_extent(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    side = axes.get_window_extent(renderer).width / classes
    assert side >= 1.5  # pixels of a cell
