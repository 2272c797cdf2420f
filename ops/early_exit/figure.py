"""Pictures of results. They are drawn on figures of their own: no window, no state that outlives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ops.early_exit.curve import ExitPoint
from ops.report.style import STYLE
from ops.utils.files import whole_file

COLOURS = {"confidence": "#0072B2", "entropy": "#D55E00"}  # told apart by colour-blind readers too
MARKERS = {"confidence": "o", "entropy": "s"}
FIXED, RANDOM = "#777777", "#aaaaaa"  # exits that no criterion chooses


@dataclass(frozen=True)
class ExitFigure:
    """What the early-exit picture shows; all metrics in percent, all costs in GFLOPs."""

    title: str
    metric: str  # its name on the axis
    curves: Mapping[str, Sequence[ExitPoint]]  # by criterion
    fixed: Sequence[tuple[float, float]]  # cost and metric of always stopping at an exit, from the first to the last
    published: Sequence[tuple[float, float]] = ()  # cost and metric, where there are figures to compare with


def draw_early_exit(path: Path, content: ExitFigure) -> None:
    """Write `early_exit_figure` as PNG. Raises UserError where that fails."""
    with whole_file(path) as file:
        early_exit_figure(content).savefig(file, format="png")


def early_exit_figure(content: ExitFigure) -> Figure:
    """Metric over cost: both criteria, random exits, fixed exits, and published figures."""
    figure = Figure(figsize=(5.0, 3.5), dpi=300, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(
        *zip(*content.fixed, strict=True), color=FIXED, linewidth=1, linestyle="--", marker="|", markersize=5,
        label="always the same exit", zorder=2,
    )  # fmt: skip
    label = "random exits"
    for points in content.curves.values():
        axes.plot(
            [point.gflops for point in points], [point.random_metric for point in points], color=RANDOM,
            linewidth=1, linestyle=":", marker=".", markersize=3, label=label, zorder=1,
        )  # fmt: skip
        label = None
    for criterion, points in content.curves.items():
        axes.plot(
            [point.gflops for point in points], [point.metric for point in points], color=COLOURS[criterion],
            linewidth=1.4, marker=MARKERS[criterion], markersize=3, label=f"early exit, {criterion}", zorder=3,
        )  # fmt: skip
    if content.published:
        axes.plot(
            *zip(*content.published, strict=True), color="black", linestyle="none", marker="*", markersize=9,
            markeredgecolor="white", markeredgewidth=0.6, label="published", zorder=4,
        )  # fmt: skip
    axes.set_title(content.title, fontsize=STYLE["font"], loc="left")
    axes.set_xlabel("GFLOPs per video", fontsize=STYLE["font"])
    axes.set_ylabel(f"{content.metric} (%)", fontsize=STYLE["font"])
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
