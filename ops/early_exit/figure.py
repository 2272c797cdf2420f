"""The picture of an early-exit evaluation."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ops.early_exit.curve import ExitCurves
from ops.metrics import METRIC_NAMES
from ops.report.style import FONT, fitted, new_figure, plain_axes

COLOURS = {"confidence": "#0072B2", "entropy": "#D55E00"}  # told apart by colour-blind readers too
MARKERS = {"confidence": "o", "entropy": "s"}
TITLE_WIDTH = 4.3  # inches, from the left axis to the edge of the picture
FIXED, RANDOM = "#777777", "#aaaaaa"  # exits that no criterion chooses


def early_exit_figure(
    curves: ExitCurves,
    title: str,
    published: Sequence[tuple[float, float]] = (),
    bands: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Metric over cost: both criteria, random exits, fixed exits, and published (GFLOPs, metric) if there are any.

    title: any text; what the font does not have is a square, and where it is too long its middle is left out.
    bands: by criterion, how far the metric of each of its points goes up and down from one run to another.
    """
    axes = new_figure(5.0, 3.5, dpi=300, layout="constrained").add_subplot()
    for criterion, points in curves.points.items():
        axes.plot(
            [point.gflops for point in points], [point.metric for point in points], color=COLOURS[criterion],
            linewidth=1.4, marker=MARKERS[criterion], markersize=3, label=f"early exit, {criterion}", zorder=3,
        )  # fmt: skip
    for criterion, spread in (bands or {}).items():
        gflops, metric = ([getattr(point, name) for point in curves.points[criterion]] for name in ("gflops", "metric"))
        low, high = np.subtract(metric, spread), np.add(metric, spread)
        axes.fill_between(gflops, low, high, color=COLOURS[criterion], alpha=0.15, linewidth=0, zorder=1)
    axes.plot(
        curves.gflops, curves.fixed, color=FIXED, linewidth=1, linestyle="--", marker="|", markersize=5,
        label="always the same exit", zorder=2,
    )  # fmt: skip
    for number, points in enumerate(curves.points.values()):
        axes.plot(
            [point.gflops for point in points], [point.random_metric for point in points], color=RANDOM, linewidth=1,
            linestyle=":", marker=".", markersize=3, label=None if number else "random exits", zorder=1,
        )  # fmt: skip
    if published:
        axes.plot(
            *zip(*published, strict=True), color="black", linestyle="none", marker="*", markersize=9,
            markeredgecolor="white", markeredgewidth=0.6, label="published", zorder=4,
        )  # fmt: skip
    axes.set_title(fitted(title, axes.figure, TITLE_WIDTH, FONT), fontsize=FONT, loc="left")
    axes.set_xlabel("GFLOPs per video", fontsize=FONT)
    axes.set_ylabel(f"{METRIC_NAMES[curves.metric]} (%)", fontsize=FONT)
    plain_axes(axes, FONT - 1)
    axes.legend(fontsize=FONT - 1, framealpha=0.9, edgecolor="none")
    return axes.figure
