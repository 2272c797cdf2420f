"""One style for all pictures, and their text: names come from files, so they may hold anything, of any length."""

from collections.abc import Callable
from functools import lru_cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

STYLE = {"font": 9, "axes": "#444444", "grid": "#dddddd"}  # font size in points, and colours
UNKNOWN = "\N{WHITE SQUARE}"  # stands for a character that the font does not have
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def drawable(text: str) -> str:
    """The text in one line, with a square for each character that the font does not have."""
    known = _known_characters()
    return "".join(c if ord(c) in known else UNKNOWN for c in " ".join(text.split()))


def plain(text: str) -> str:
    """`drawable` text that Matplotlib draws as it stands, without mathematics between dollar signs."""
    return drawable(text).replace("$", r"\$")


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, or where it does not fit, as much of its beginning and end as does, around an ellipsis."""
    if fits(text):
        return text
    low, high = 0, len(text) - 1  # how many characters stay: `low` fit, or none do; more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(_without_middle(text, middle)) else (low, middle - 1)
    return _without_middle(text, low)


def fitted(text: str, figure: Figure, inches: float, size: float, weight: str = "normal") -> str:
    """`plain` text of `size` points, `shortened` to a width."""
    font = FontProperties(size=size, weight=weight)
    renderer = figure.canvas.get_renderer()

    def fits(candidate: str) -> bool:
        return renderer.get_text_width_height_descent(candidate, font, False)[0] <= inches * figure.dpi

    return plain(shortened(drawable(text), fits))


def _without_middle(text: str, stay: int) -> str:
    head = (stay + 1) // 2
    return text[:head].rstrip() + ELLIPSIS + text[len(text) - (stay - head) :].lstrip()


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties())).get_charmap())
