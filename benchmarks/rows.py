"""What benchmarks have to say, one row for each claim, and the table of all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

HEADS = ("what", "yardstick", "ours", "ratio", "largest difference of outputs")


@dataclass(frozen=True)
class Row:
    """A claim: how many times as good ours is as the yardstick, measured in turns, with the outputs compared."""

    what: str  # with its unit
    yardstick: float | None  # None where it cannot be measured here
    ours: float
    ratio: float | None
    difference: str  # in words


def table(rows: Sequence[Row]) -> str:
    """The rows under their heads, in columns."""
    cells = [HEADS, *((row.what, *map(_number, (row.yardstick, row.ours, row.ratio)), row.difference) for row in rows)]
    width = max(len(what) for what, *_ in cells)
    return "\n".join(
        f"{what:<{width}}{yardstick:>11}{ours:>9}{ratio:>7}  {difference}".rstrip()
        for what, yardstick, ours, ratio, difference in cells
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
