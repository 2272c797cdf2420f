"""Runs the early-exit evaluation: logits of all exits, curves, and on request the real thing."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from models.uni_adafocus import UniAdaFocus
from ops import checkpoint, distributed, faults
from ops.data_check import check_only, check_splits
from ops.dataset import VideoDataset
from ops.dynamic_runner import run_for_real
from ops.errors import EXIT_DONE, EXIT_WITH_FAILURES, UserError
from ops.exit_files import read_thresholds, thresholds_file
from ops.exit_logits import file_hash, kept_or_computed
from ops.exit_report import compute_curves, cost_table, halves, report
from ops.float32 import float32_convolutions
from ops.flops import exit_gflops
from ops.inference_network import prepare_for_inference
from ops.logger import RunLogger
from ops.precision_comparison import PrecisionComparison
from ops.predictions import save_predictions
from ops.runner import log_name, run_folder, say_how_it_starts
from ops.setup import (
    build_dataset,
    build_model,
    check_speed_options,
    find_checkpoint,
    find_dataset,
    share_of_evaluation_batch,
)
from ops.signals import Stopped, StopRequest
from ops.summary import print_summary


def run(options: argparse.Namespace) -> int:
    """Evaluate early exit as the options say. Returns the exit code; wrong input is a UserError."""
    if options.summary:
        return print_summary(options)
    if options.check_data:
        return check_only(options, split_names(options))
    with distributed.process_group(options.time_limit) as device, StopRequest() as stop_request, float32_convolutions():
        with distributed.fail_together():
            config = find_dataset(options)
            names = split_names(options)
            splits = {name: build_dataset(options, config, name, training=name == "train") for name in names}
            share_of_evaluation_batch(options)
            check_speed_options(options, device)
            resumed, notes = find_checkpoint(options, run_folder(options))
            if resumed is None:
                raise UserError(f"--resume auto: {notes[0].partition(':')[0]} to evaluate")
        notes = check_splits(splits, options.skip_missing) + notes
        with distributed.fail_together():
            if options.calibrate_on == "val_half" and len(splits["val"]) < 2:
                raise UserError(f"--calibrate_on val_half needs 2 validation videos or more; {config.val_split} has 1")
            model = build_model(options, config.num_classes)
            checkpoint.load_model(model, resumed["state_dict"], Path(options.resume))
            model.to(device).eval()
            checkpoint_hash = file_hash(options.resume) if distributed.is_main_process() else ""
            logger = RunLogger(
                run_folder(options), distributed.is_main_process(), log_name=log_name(options, training=False)
            )
        say_how_it_starts(logger, options, config, model, [*notes, f"weights of {options.resume}"], device)
        gflops = exit_gflops(model)
        for line in cost_table(gflops):
            logger.line(line)
        comparison = partial(PrecisionComparison, model, options.eval_precision, options.compile, device)
        model = prepare_for_inference(model, options.eval_precision, options.compile)
        try:
            with faults.explained(options):
                agreed = evaluate(
                    model, splits, gflops, checkpoint_hash, options, device, logger, stop_request, comparison
                )
        except Stopped as stopped:
            logger.line(str(stopped))
            return stopped.exit_code
        finally:
            logger.close()
    return EXIT_DONE if agreed else EXIT_WITH_FAILURES


def split_names(options: argparse.Namespace) -> tuple[str, ...]:
    """The splits that `--calibrate_on` asks for."""
    return ("train", "val") if options.calibrate_on == "train" else ("val",)


def evaluate(
    model: UniAdaFocus,
    splits: Mapping[str, VideoDataset],
    gflops: Sequence[float],
    checkpoint_hash: str,
    options: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
    stop_request: StopRequest,
    comparison: Callable[[], PrecisionComparison],
) -> bool:
    """Logits, curves, and with `--dynamic` the real thing; False where that does not agree.

    comparison: gives one of the model's precision with float32, for each split. The training split has training-time
    frames and crops. Raises Stopped, on all processes, when a signal comes.
    """
    found = {
        name: kept_or_computed(
            model,
            split,
            checkpoint_hash,
            batch_size=share_of_evaluation_batch(options),
            workers=options.workers,
            print_freq=options.print_freq,
            device=device,
            logger=logger,
            stop_request=stop_request,
            comparison=comparison(),
        )
        for name, split in splits.items()
    }
    validation = splits["val"]
    rows = np.arange(len(validation))
    calibration = found.get("train")
    if "train" not in splits:
        half, rows = halves(len(validation))
        calibration = found["val"] and found["val"].rows(half)
    simulated = found["val"] and found["val"].rows(rows)
    thresholds = None
    with distributed.fail_together():
        if distributed.is_main_process():
            labels = validation.labels[torch.from_numpy(rows)]
            metric = validation.config.metric
            curves = compute_curves(calibration.logits, simulated.logits, labels, gflops, metric, options.seed)
            report(curves, model, options, checkpoint_hash, logger)
            if options.save_predictions:
                save_predictions(Path(options.save_predictions), validation, found["val"].logits[:, -1])
            path = thresholds_file(logger.folder, options.criterion)
            thresholds = {p: read_thresholds(path, p, model, checkpoint_hash)[0] for p in options.dynamic}
    if not options.dynamic:
        return True
    thresholds = distributed.broadcast_object(thresholds)
    return run_for_real(model, validation, rows, thresholds, simulated, gflops, options, logger, stop_request)
