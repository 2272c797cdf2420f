"""The early-exit evaluation: logits of all exits, curves printed and written, and on request the real thing."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import ExitCurves, compute_curves
from ops.early_exit.figure import early_exit_figure
from ops.early_exit.logits import kept_or_computed
from ops.early_exit.measure import run_for_real
from ops.early_exit.thresholds import Weights, file_hash, result_file, write_curve, write_thresholds
from ops.flops import cost_table, exit_gflops
from ops.inference import float32_convolutions, prepare_for_inference
from ops.metrics import METRIC_NAMES
from ops.report.files import save_predictions
from ops.report.outputs import of_checkpoint, report_left_out_classes, report_precision
from ops.report.style import save_png
from ops.runner import inspect_only
from ops.setup import Data, load_data, trained_model
from ops.utils import distributed
from ops.utils.errors import EXIT_WITH_FAILURES, UserError
from ops.utils.session import Run, start

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


def run_early_exit(options: argparse.Namespace) -> int:
    """Evaluate early exit as the options say. Returns the exit code; wrong input is a UserError."""
    if (code := inspect_only(options, split_names(options))) is not None:
        return code
    with start(options) as run, float32_convolutions():
        data = load_data(run, split_names(options))
        with distributed.fail_together():
            if options.calibrate_on == "val_half" and len(data.val) < 2:
                raise UserError(f"--calibrate_on val_half needs 2 or more videos; {data.config.val_split} has 1")
        model, source = trained_model(run, data)
        with distributed.fail_together():
            run.log.open(f"log_{options.eval_suffix}.csv")
            checkpoint_hash = file_hash(source) if distributed.is_main_process() else ""
        if not evaluate_early_exit(run, data, model, Weights(source, checkpoint_hash)):
            run.exit_code = EXIT_WITH_FAILURES
    return run.exit_code


def split_names(options: argparse.Namespace) -> tuple[str, ...]:
    """The splits that `--calibrate_on` asks for."""
    return ("train", "val") if options.calibrate_on == "train" else ("val",)


def halves(videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of 0..videos-1, drawn at random but always alike: to find thresholds on, and to evaluate."""
    order = np.random.default_rng(0).permutation(videos)
    return np.sort(order[: videos // 2]), np.sort(order[videos // 2 :])


def evaluate_early_exit(run: Run, data: Data, model: UniAdaFocus, weights: Weights) -> bool:
    """Logits, curves, and with `--dynamic` the real thing; False where that does not agree.

    The training split has training-time frames and crops. Raises Stopped, on all processes, when a signal comes.
    """
    options, validation = run.options, data.val
    gflops = exit_gflops(model)
    for line in cost_table(gflops):
        run.log.line(line)
    prepared = prepare_for_inference(model, options.eval_precision, options.compile)
    found = {name: kept_or_computed(run, prepared, split, weights) for name, split in data.splits.items()}
    report_precision(run, model, validation)
    rows, thresholds, simulated = np.arange(len(validation)), None, None
    if "train" not in data.splits:
        half, rows = halves(len(validation))
    with distributed.fail_together():
        if distributed.is_main_process():
            simulated = found["val"][rows]
            calibration = found["train"] if "train" in found else found["val"][half]
            labels, metric = validation.labels[torch.from_numpy(rows)], validation.config.metric
            curves = compute_curves(calibration, simulated, labels, gflops, metric, options.seed)
            report(run, curves, model, weights)
            report_left_out_classes(run.log, validation.config, labels)
            if options.save_predictions:
                save_predictions(Path(options.save_predictions), validation, found["val"][:, -1])
            points = {point.p: point.thresholds for point in curves.points[options.criterion]}
            thresholds = {p: points[p] for p in options.dynamic}
    if not options.dynamic:
        return True
    return run_for_real(run, prepared, validation, rows, distributed.broadcast_object(thresholds), simulated)


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

    def place(path: Path) -> Path:
        return folder / of_checkpoint(path.name, folder, weights.path)

    for criterion, points in curves.points.items():
        for line in curve_table(criterion, curves):
            logger.line(line)
        write_curve(place(result_file(folder, criterion, "csv")), points)
        path = place(result_file(folder, criterion, "json"))
        write_thresholds(path, curves, criterion, options.calibrate_on, model, weights)
    published = published_figures(options, curves.metric)
    picture = place(folder / PICTURE)
    save_png(picture, early_exit_figure(curves, f"{options.dataset}, {weights.path.name}", published))
    if published:
        listed = ", ".join(f"{metric} at {cost}" for cost, metric in published)
        logger.line(f"Published, {METRIC_NAMES[curves.metric]} at GFLOPs: {listed}")
    logger.line(f"Curves, thresholds and {picture.name} are in {folder}")
