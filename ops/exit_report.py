"""The curves of an early-exit evaluation, printed and written to the log folder."""

import argparse
from collections.abc import Iterator

from models.uni_adafocus import UniAdaFocus
from ops.exit_curve import ExitCurves
from ops.exit_files import curve_file, thresholds_file, write_curve, write_thresholds
from ops.exit_logits import Weights
from ops.metrics import METRIC_NAMES
from ops.session import Run
from ops.visualize import ExitFigure, draw_early_exit

PICTURE = "early_exit.png"
PUBLISHED_GFLOPS = (27.2, 18.1, 9.1)
PUBLISHED_METRIC = {
    "actnet": ("map", (80.7, 80.4, 78.3)),
    "fcvid": ("map", (86.4, 86.2, 85.4)),
    "minik": ("accuracy", (75.8, 75.7, 74.3)),
}
PUBLISHED_SETTINGS = {
    "glance_arch": "mbv2", "num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224,
    "patch_size": 128, "stn_hidden_dim": 128, "temporal_hidden_dim": 64, "temperature": 1.0, "calibrate_on": "train",
}  # fmt: skip


def published_figures(options: argparse.Namespace, metric: str) -> list[tuple[float, float]]:
    """(GFLOPs, metric) as published, where the dataset and all settings are those of the paper's main results."""
    published_metric, figures = PUBLISHED_METRIC.get(options.dataset, ("", ()))
    as_published = all(getattr(options, name) == value for name, value in PUBLISHED_SETTINGS.items())
    return list(zip(PUBLISHED_GFLOPS, figures, strict=True)) if as_published and metric == published_metric else []


def curve_table(criterion: str, curves: ExitCurves) -> Iterator[str]:
    """Lines with the operating points of one criterion."""
    yield f"Early exit by {criterion}, {METRIC_NAMES[curves.metric]} in percent:"
    yield "   p   GFLOPs  metric  random   % of the videos at each exit"
    for point in curves.points[criterion]:
        shares = " ".join(f"{100 * share:.0f}" for share in point.exit_ratio)
        yield f"  {point.p:2d} {point.gflops:8.3f} {point.metric:7.2f} {point.random_metric:7.2f}   {shares}"


def report(run: Run, curves: ExitCurves, model: UniAdaFocus, weights: Weights) -> None:
    """Print the curves and write them, with thresholds and a picture, to the log folder. Raises UserError."""
    options, logger, folder = run.options, run.log, run.log.folder
    for criterion, points in curves.points.items():
        for line in curve_table(criterion, curves):
            logger.line(line)
        for point in points:
            figures = {"metric": point.metric, "random_metric": point.random_metric, "gflops": point.gflops}
            logger.scalars(f"early_exit_{criterion}", figures, point.p)
        write_curve(curve_file(folder, criterion), points)
        path = thresholds_file(folder, criterion)
        write_thresholds(path, curves, criterion, options.calibrate_on, model, weights)
    published = published_figures(options, curves.metric)
    draw_early_exit(
        folder / PICTURE,
        ExitFigure(
            title=f"{options.dataset}, {weights.path.name}",
            metric=METRIC_NAMES[curves.metric],
            curves=curves.points,
            fixed=list(zip(curves.gflops, curves.fixed, strict=True)),
            published=published,
        ),
    )
    if published:
        listed = ", ".join(f"{metric} at {cost}" for cost, metric in published)
        logger.line(f"Published, {METRIC_NAMES[curves.metric]} at GFLOPs: {listed}")
    logger.line(f"Curves, thresholds and {PICTURE} are in {folder}")
