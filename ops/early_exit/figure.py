"""Pictures of results, each on a figure of its own: no window, no global state."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ops.early_exit.curve import ExitCurves
from ops.metrics import METRIC_NAMES
from ops.report.style import STYLE
from ops.utils.files import whole_file

COLOURS = {"confidence": "#0072B2", "entropy": "#D55E00"}  # told apart by colour-blind readers too
MARKERS = {"confidence": "o", "entropy": "s"}
FIXED, RANDOM = "#777777", "#aaaaaa"  # exits that no criterion chooses


def draw_early_exit(path: Path, curves: ExitCurves, title: str, published: Sequence[tuple[float, float]] = ()) -> None:
    """Write `early_exit_figure` as PNG. Raises UserError where that fails."""
    with whole_file(path) as file:
        early_exit_figure(curves, title, published).savefig(file, format="png")


def early_exit_figure(curves: ExitCurves, title: str, published: Sequence[tuple[float, float]] = ()) -> Figure:
    """Metric over cost: both criteria, random exits, fixed exits, and published (GFLOPs, metric) if there are any."""
    figure = Figure(figsize=(5.0, 3.5), dpi=300, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        curves.gflops, curves.fixed, color=FIXED, linewidth=1, linestyle="--", marker="|", markersize=5,
        label="always the same exit", zorder=2,
    )  # fmt: skip
    for number, (criterion, points) in enumerate(curves.points.items()):
        gflops = [point.gflops for point in points]
        axes.plot(
            gflops, [point.random_metric for point in points], color=RANDOM, linewidth=1, linestyle=":",
            marker=".", markersize=3, label=None if number else "random exits", zorder=1,
        )  # fmt: skip
        axes.plot(
            gflops, [point.metric for point in points], color=COLOURS[criterion], linewidth=1.4,
            marker=MARKERS[criterion], markersize=3, label=f"early exit, {criterion}", zorder=3,
        )  # fmt: skip
    if published:
        axes.plot(
            *zip(*published, strict=True), color="black", linestyle="none", marker="*", markersize=9,
            markeredgecolor="white", markeredgewidth=0.6, label="published", zorder=4,
        )  # fmt: skip
    axes.set_title(title, fontsize=STYLE["font"], loc="left")
    axes.set_xlabel("GFLOPs per video", fontsize=STYLE["font"])
    axes.set_ylabel(f"{METRIC_NAMES[curves.metric]} (%)", fontsize=STYLE["font"])
    axes.tick_params(labelsize=STYLE["font"] - 1, color=STYLE["axes"])
    axes.grid(color=STYLE["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(STYLE["axes"])
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("early exit"))
    axes.legend(
        [handles[i] for i in order], [labels[i] for i in order], fontsize=STYLE["font"] - 1, framealpha=0.9,
        edgecolor="none",
    )  # fmt: skip
    return figure
