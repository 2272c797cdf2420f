"""One style for all pictures, and their text: names come from files, so they may hold anything, of any length."""

from bisect import bisect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from ops.utils.files import whole_file

FONT, AXES, GRID = 9, "#444444", "#dddddd"  # size in points, and colours
UNKNOWN = "\N{WHITE SQUARE}"  # stands for a character that the font does not have
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def new_figure(width: float, height: float, dpi: float, layout: str | None = None) -> Figure:
    """An empty figure, in inches: no window, no global state."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes: Axes, size: float, grid: str | None = "both", **ticks: Any) -> None:
    """Axes on the left and below only. size: of their numbers, points; grid: "y", "both"; ticks: for `tick_params`."""
    axes.tick_params(labelsize=size, color=AXES, **ticks)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXES)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)


def save_png(path: Path, figure: Figure) -> None:
    """Write the figure. Raises UserError where that fails."""
    with whole_file(path) as file:
        figure.savefig(file, format="png")


def drawable(text: str) -> str:
    """The text in one line, with a square for each character that the font does not have."""
    font = get_font(findfont(FontProperties()))
    return "".join(c if font.get_char_index(ord(c)) else UNKNOWN for c in " ".join(text.split()))


def plain(text: str) -> str:
    """`drawable` text that Matplotlib draws as it stands, without mathematics between dollar signs."""
    return drawable(text).replace("$", r"\$")


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or where it does not fit, as much of its beginning and end as does, around an ellipsis."""

    def without_middle(stay: int) -> str:
        head = (stay + 1) // 2
        return text[:head].rstrip() + ELLIPSIS + text[len(text) - (stay - head) :].lstrip()

    if fits(text):
        return text
    return without_middle(bisect(range(1, len(text)), False, key=lambda stay: not fits(without_middle(stay))))


def fitted(text: str, figure: Figure, inches: float, size: float, weight: str = "normal") -> str:
    """`plain` text of `size` points, `shortened` to a width."""
    font = FontProperties(size=size, weight=weight)
    renderer = figure.canvas.get_renderer()

    def fits(candidate: str) -> bool:
        return renderer.get_text_width_height_descent(candidate, font, False)[0] <= inches * figure.dpi

    return plain(shortened(drawable(text), fits))
