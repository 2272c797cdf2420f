"""ops/early_exit/figure.py: the early-exit picture shows the figures it is given."""

import numpy as np
import pytest
from matplotlib.text import Text

from ops.early_exit.curve import ExitCurves, ExitPoint
from ops.early_exit.figure import early_exit_figure
from ops.report.style import save_png


def point(p: int, gflops: float, metric: float, random_metric: float) -> ExitPoint:
    return ExitPoint(p, gflops, metric, random_metric, np.ones(1, np.float32), np.zeros(1, np.float32))


@pytest.fixture
def curves() -> ExitCurves:
    points = {
        "confidence": [point(1, 5, 70, 69), point(2, 7, 75, 71)],
        "entropy": [point(1, 6, 71, 68), point(2, 8, 74, 72)],
    }
    return ExitCurves("map", [4, 9], points, [60, 76])


def test_every_figure_is_drawn_under_its_name(curves):
    axes = early_exit_figure(curves, "actnet", [(9.1, 78.3)]).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["early exit, confidence"] == [[5, 70], [7, 75]]
    assert lines["early exit, entropy"] == [[6, 71], [8, 74]]
    assert lines["random exits"] == [[5, 69], [7, 71]]
    assert lines["always the same exit"] == [[4, 60], [9, 76]]
    assert lines["published"] == [[9.1, 78.3]]
    assert len(axes.lines) == 6  # the random exits of entropy share a name with the others
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "early exit, confidence", "early exit, entropy", "always the same exit", "random exits", "published"
    ]  # fmt: skip
    assert axes.get_ylabel() == "mAP (%)"


def test_published_figures_are_named_only_where_there_are_some(curves):
    figure = early_exit_figure(curves, "mine")
    assert "published" not in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_bands_lie_around_the_points_of_their_criterion(curves):
    axes = early_exit_figure(curves, "mine", bands={"confidence": [2, 1]}).axes[0]
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(5, 68), (5, 72), (7, 74), (7, 76)} <= corners


def test_the_picture_is_a_png_of_printable_size(curves, tmp_path):
    save_png(tmp_path / "early_exit.png", early_exit_figure(curves, "actnet"))
    header = (tmp_path / "early_exit.png").read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert int.from_bytes(header[16:20], "big") == 1500  # pixels across: 5 inches at 300 dpi


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("title", ["名前, best_$_$_x.pth.tar", "$", "mine, " + "W" * 200 + ".pth.tar"])
def test_any_title_is_drawn_as_it_stands_within_the_picture(title, curves, tmp_path):
    figure = early_exit_figure(curves, title)
    save_png(tmp_path / "early_exit.png", figure)
    (drawn,) = (text for text in figure.findobj(Text) if text.get_text() == figure.axes[0].get_title("left"))
    assert drawn.get_window_extent().x1 <= figure.bbox.x1
    assert drawn.get_text().startswith({"名": "□□, best_", "$": "\\$", "m": "mine, W"}[title[0]])
