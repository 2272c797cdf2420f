"""Runs a split with early exit at operating points of the curve, beside the same without exits.

On every batch all variants run, in changing order, so that what else the machine does slows all of them. A time runs
from the first frame read to the last result of a batch, decoding included.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.data.dataset import VideoDataset
from ops.data.loaders import EvaluationBatches
from ops.data.sources import FolderFrames
from ops.early_exit.curve import exit_decisions
from ops.early_exit.inference import EarlyExitInference, ExitResult, joined
from ops.flops import exit_gflops
from ops.metrics import METRIC_NAMES, main_metric
from ops.utils import distributed
from ops.utils.session import Run
from ops.utils.signals import Stopped

MAY_DIFFER, MAY_DIFFER_IN_HALF = 0.01, 0.05  # share of the videos whose exit or class rounding may change


class Variant:
    """One way to run the split, by thresholds [K], with what this process measured; times in seconds."""

    def __init__(self, name: str, model: UniAdaFocus, thresholds: np.ndarray, options: argparse.Namespace) -> None:
        self.name, self.thresholds = name, thresholds
        self.inference = EarlyExitInference(model, thresholds, options.criterion, options.focus_chunk)
        self.results = [ExitResult.empty(0, model.num_classes)]  # a process may have no video
        self.seconds: list[float] = []  # of each batch
        self.reading: list[float] = []  # of them, fetching frames

    def gather(self, rows: Tensor, videos: int) -> None:
        """All processes call this: then the main process has one result, of all videos, and all have all times."""
        parts = {name: distributed.gather_rows(part, rows, videos) for name, part in vars(joined(self.results)).items()}
        self.result = ExitResult(**parts)
        times = distributed.gather_objects((self.seconds, self.reading))
        self.total = max(sum(seconds) for seconds, _ in times)  # of the slowest process
        self.without_reading = max(sum(seconds) - sum(reading) for seconds, reading in times)
        self.batches = np.concatenate([seconds for seconds, _ in times])


def run_for_real(
    run: Run,
    model: UniAdaFocus,
    dataset: VideoDataset,
    rows: np.ndarray,
    thresholds: Mapping[int, np.ndarray],
    simulated: Tensor | None,
) -> bool:
    """Run the videos `rows` [M] of a split at each operating point, shared by all processes, and print what came out.

    Args:
        model: made by `prepare_for_inference`.
        thresholds: [K] by operating point.
        simulated: logits [M, K, C] of the same videos at all exits, on the main process.

    Returns whether exits and classes are those of the simulation. Rounding may change those of one video, or of 1 % of
    the videos, and of 5 % in half precision; where more differ, something is wrong. Raises Stopped, on all processes,
    when a signal comes.
    """
    options, gflops = run.options, exit_gflops(model)
    variants = [Variant("without exits", model, np.full(len(gflops), np.inf, np.float32), options)]
    variants += [Variant(f"p = {p}", model, row, options) for p, row in thresholds.items()]
    batches = EvaluationBatches(len(rows), options.dynamic_batch_size, distributed.rank(), distributed.world_size())
    with ThreadPoolExecutor(max(1, options.workers)) as threads:
        for variant in variants:  # the first call of anything is slow
            variant.inference(FolderFrames(dataset, rows[:1], threads))
        for number, places in enumerate(run.log.progress(batches, "for real")):
            turn = number % len(variants)  # each variant is first equally often
            for variant in [*variants[turn:], *variants[:turn]]:
                source = FolderFrames(dataset, rows[places], threads)
                started = time.perf_counter()
                variant.results.append(variant.inference(source))
                variant.seconds.append(time.perf_counter() - started)
                variant.reading.append(source.seconds)
            if number < batches.common_steps and (stop := run.stop.agreed()):
                raise Stopped(stop)
    for variant in variants:
        variant.gather(torch.tensor(batches.indices, dtype=torch.int64), len(rows))

    agree = True
    if distributed.is_main_process():
        labels = dataset.labels[torch.from_numpy(rows)]
        for line in speed_table(variants, gflops, labels, dataset.config.metric, options):
            run.log.line(line)
        for variant in variants:
            same, apart = agreement(variant.result, simulated, variant.thresholds, options.criterion)
            counts = torch.bincount(variant.result.exits, minlength=len(gflops)).tolist()
            run.log.line(
                f"{variant.name}: videos at each exit {' '.join(map(str, counts))}; {same} of {len(rows)} with the "
                f"simulation's exit and class, logits at most {apart:.1e} apart"
            )
            share = MAY_DIFFER if options.eval_precision == "float32" else MAY_DIFFER_IN_HALF
            agree = agree and len(rows) - same <= max(1, share * len(rows))
    return distributed.broadcast_object(agree)


def agreement(result: ExitResult, simulated: Tensor, thresholds: np.ndarray, criterion: str) -> tuple[int, float]:
    """How many of M videos have the exit and the class that their logits [M, K, C] at all exits promise; and how far
    logits are from these at most, at the exits taken."""
    expected = simulated[torch.arange(len(simulated)), result.exits]
    same = exit_decisions(simulated, thresholds, criterion) == result.exits
    same &= expected.argmax(dim=1) == result.logits.argmax(dim=1)
    return int(same.sum()), float((result.logits - expected).abs().max())


def speed_table(
    variants: Sequence[Variant], gflops: Sequence[float], labels: Tensor, metric: str, options: argparse.Namespace
) -> Iterator[str]:
    """Lines with cost, metric and speed of each variant; the first runs without exits and is what others save from."""
    yield (
        f"Early exit for real, by {options.criterion}: {len(labels)} videos in batches of "
        f"{options.dynamic_batch_size}, {options.focus_chunk} patch(es) between checks; the metric is "
        f"{METRIC_NAMES[metric]} in percent"
    )
    yield (
        "               GFLOPs   spent  metric  videos/s  ms a batch: median  95th pct.  "
        "saved of GFLOPs  of time  of it without reading"
    )

    def saved(part: float, whole: float) -> str:
        return f"{round(100 * (1 - part / whole), 1) + 0.0:.1f} %"  # 0.0 rather than -0.0

    costs, full = np.array(gflops), variants[0]
    for variant in variants:
        result = variant.result
        predicted, spent = float(costs[result.exits].mean()), float(costs[result.patches].mean())
        median, high = 1000 * np.percentile(variant.batches, (50, 95))
        yield (
            f"{variant.name:13s} {predicted:7.3f} {spent:7.3f} {main_metric(result.logits, labels, metric):7.2f} "
            f"{len(labels) / variant.total:9.2f} {median:19.1f} {high:10.1f} {saved(predicted, gflops[-1]):>16s} "
            f"{saved(variant.total, full.total):>8s} {saved(variant.without_reading, full.without_reading):>22s}"
        )
