"""ops/report/style.py: any name becomes text that can be drawn in the room there is."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ops.report.style import ELLIPSIS, drawable, fitted, plain, shortened


@pytest.fixture
def figure() -> Figure:
    figure = Figure(dpi=100)
    FigureCanvasAgg(figure)
    return figure


def test_characters_without_a_glyph_become_squares_and_white_space_a_blank():
    assert drawable("日本 café\n ice\tcream ") == "□□ café ice cream"


def test_dollars_are_drawn_as_they_stand(figure):
    for text in ("$x^2$", "5$", r"\frac$$"):
        drawn = figure.text(0, 0, plain(text))
        assert drawn._preprocess_math(drawn.get_text()) == (text, False)


@pytest.mark.parametrize("room", range(1, 12))
def test_a_text_that_is_too_long_keeps_as_much_of_its_ends_as_fits(room):
    found = shortened("abcdefghij", lambda text: len(text) <= room)
    assert len(found) == min(room, 10)
    head, ellipsis, tail = found.partition(ELLIPSIS)
    assert "abcdefghij".startswith(head) and "abcdefghij".endswith(tail)
    assert bool(ellipsis) == (room < 10) and 0 <= len(head) - len(tail) <= (10 if room >= 10 else 1)


def test_fitted_text_has_the_width_it_is_given(figure):
    renderer = figure.canvas.get_renderer()
    for inches in (0.5, 1.0, 2.0):
        drawn = figure.text(0, 0, fitted("W" * 100, figure, inches, 8), fontsize=8)
        assert 0.8 * inches <= drawn.get_window_extent(renderer).width / 100 <= inches
    assert fitted("short", figure, 2.0, 8) == "short"
