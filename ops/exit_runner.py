"""Runs the early-exit evaluation: logits of all exits, curves, and on request the real thing."""

import argparse
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from dataset_config import DatasetConfig
from models.uni_adafocus import UniAdaFocus
from ops import distributed
from ops.dataset import VideoDataset
from ops.dynamic_runner import run_for_real
from ops.errors import EXIT_DONE, EXIT_WITH_FAILURES, UserError
from ops.exit_files import read_thresholds, thresholds_file
from ops.exit_logits import file_hash, kept_or_computed
from ops.exit_report import compute_curves, cost_table, halves, report
from ops.flops import exit_gflops
from ops.inference_network import prepared_for_inference
from ops.logger import RunLogger
from ops.predictions import save_predictions
from ops.runner import run_folder, say_how_it_starts
from ops.setup import build_dataset, build_model, find_dataset, resume_model, share_of_batch


def run(options: argparse.Namespace) -> int:
    """Evaluate early exit as the options say. Returns the exit code; wrong input is a UserError."""
    with distributed.process_group() as device, float32_convolutions():
        with distributed.fail_together():
            config = find_dataset(options)
            splits = build_splits(options, config)
            share_of_batch(options)
        with distributed.fail_together():
            model = build_model(options, config.num_classes)
            resume_model(model, options)
            model.to(device).eval()
            checkpoint_hash = file_hash(options.resume) if distributed.is_main_process() else ""
            logger = RunLogger(run_folder(options), distributed.is_main_process())
        say_how_it_starts(logger, options, config, model, [f"weights of {options.resume}"], device)
        gflops = exit_gflops(model)
        for line in cost_table(gflops):
            logger.line(line)
        model = prepared_for_inference(model)
        agreed = evaluate(model, splits, gflops, checkpoint_hash, options, device, logger)
        logger.close()
    return EXIT_DONE if agreed else EXIT_WITH_FAILURES


def evaluate(
    model: UniAdaFocus,
    splits: Mapping[str, VideoDataset],
    gflops: Sequence[float],
    checkpoint_hash: str,
    options: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
) -> bool:
    """Logits, curves, and with `--dynamic` the real thing; False on the main process where that does not agree."""
    found = {
        name: kept_or_computed(
            model,
            split,
            checkpoint_hash,
            batch_size=share_of_batch(options),
            workers=options.workers,
            print_freq=options.print_freq,
            device=device,
            logger=logger,
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
    return run_for_real(model, validation, rows, thresholds, simulated, gflops, options, logger)


def build_splits(options: argparse.Namespace, config: DatasetConfig) -> dict[str, VideoDataset]:
    """The splits that `--calibrate_on` asks for; the training split with training-time frames and crops."""
    validation = build_dataset(options, config, "val", training=False)
    if options.calibrate_on == "train":
        return {"train": build_dataset(options, config, "train", training=True), "val": validation}
    if len(validation) < 2:
        raise UserError(f"--calibrate_on val_half needs 2 validation videos or more; {config.val_split} has 1")
    return {"val": validation}


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Keep convolutions on a GPU from TF32, whose rounding, other for every batch size, could move a video's exit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
