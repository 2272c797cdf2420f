"""Runs the early-exit evaluation: logits of all exits, curves, and on request the real thing."""

import argparse
from pathlib import Path

import numpy as np
import torch

from models.uni_adafocus import UniAdaFocus
from ops import distributed
from ops.dynamic_runner import run_for_real
from ops.errors import EXIT_WITH_FAILURES, UserError
from ops.evaluation_outputs import report_precision
from ops.exit_curve import compute_curves
from ops.exit_logits import Weights, file_hash, kept_or_computed
from ops.exit_report import report
from ops.flops import cost_table, exit_gflops
from ops.inference_network import float32_convolutions, prepare_for_inference
from ops.predictions import save_predictions
from ops.runner import leave_early
from ops.session import Run, start
from ops.setup import Data, load_data, load_model


def run_early_exit(options: argparse.Namespace) -> int:
    """Evaluate early exit as the options say. Returns the exit code; wrong input is a UserError."""
    if (left := leave_early(options, split_names(options))) is not None:
        return left
    with start(options) as run, float32_convolutions():
        data = load_data(run, split_names(options))
        with distributed.fail_together():
            if options.calibrate_on == "val_half" and len(data.val) < 2:
                raise UserError(f"--calibrate_on val_half needs 2 or more videos; {data.config.val_split} has 1")
        model, source = load_model(run, data)
        with distributed.fail_together():
            run.log.open(f"log_{options.eval_suffix}.csv")
            checkpoint_hash = file_hash(source) if distributed.is_main_process() else ""
        if not evaluate(run, data, model, Weights(source, checkpoint_hash)):
            run.exit_code = EXIT_WITH_FAILURES
    return run.exit_code


def split_names(options: argparse.Namespace) -> tuple[str, ...]:
    """The splits that `--calibrate_on` asks for."""
    return ("train", "val") if options.calibrate_on == "train" else ("val",)


def halves(videos: int) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of 0..videos-1, drawn at random but always alike: to find thresholds on, and to evaluate."""
    order = np.random.default_rng(0).permutation(videos)
    return np.sort(order[: videos // 2]), np.sort(order[videos // 2 :])


def evaluate(run: Run, data: Data, model: UniAdaFocus, weights: Weights) -> bool:
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
            if options.save_predictions:
                save_predictions(Path(options.save_predictions), validation, found["val"][:, -1])
            points = {point.p: point.thresholds for point in curves.points[options.criterion]}
            thresholds = {p: points[p] for p in options.dynamic}
    if not options.dynamic:
        return True
    return run_for_real(run, prepared, validation, rows, distributed.broadcast_object(thresholds), simulated)
