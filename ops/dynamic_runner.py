"""Runs a split for real at operating points of the early-exit curve, beside the same without exits.

The variants take turns on every batch, so that what else the machine does slows all of them. A time runs from the first
frame read to the last answer of a batch, decoding included.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops import distributed
from ops.dataset import VideoDataset
from ops.dynamic import Answer, EarlyExitInference
from ops.exit_agreement import TIE, TIE_BELOW_FLOAT32, compare_with_simulation
from ops.exit_logits import ExitLogits
from ops.flops import exit_gflops
from ops.frame_sources import FolderFrames
from ops.loaders import EvaluationBatches
from ops.metrics import METRIC_NAMES, main_metric
from ops.session import Run
from ops.signals import Stopped


@dataclass
class Variant:
    """One way to run the split; times are those of this process's batches, in seconds."""

    name: str
    thresholds: np.ndarray  # [K]
    inference: EarlyExitInference
    answers: list[Answer] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)  # of them, fetching frames


@dataclass(frozen=True)
class Timing:
    """Times of a variant, all processes together, in seconds."""

    total: float  # of the slowest process
    without_reading: float  # likewise
    batches: np.ndarray  # [n], of each batch


def run_for_real(
    run: Run,
    model: UniAdaFocus,
    dataset: VideoDataset,
    rows: np.ndarray,
    thresholds: Mapping[int, np.ndarray],
    simulated: ExitLogits | None,
) -> bool:
    """Run the videos `rows` [M] of a split at each operating point, shared by all processes, and print what came out.

    thresholds: [K] by operating point; simulated: the same videos in full, on the main process. Returns whether every
    exit and prediction is the simulation's, but for rounding.
    """
    options, logger, gflops = run.options, run.log, exit_gflops(model)
    nobody_may, nobody_does = (np.full(len(gflops), limit, dtype=np.float32) for limit in (np.inf, np.finfo("f4").max))
    variants = [
        Variant(name, row, EarlyExitInference(model, row, options.criterion, options.focus_chunk))
        for name, row in [("without exits", nobody_may), *((f"p = {p}", row) for p, row in thresholds.items())]
    ]
    warm_up = [variants[0].inference, EarlyExitInference(model, nobody_does, options.criterion, options.focus_chunk)]
    batches = EvaluationBatches(len(rows), options.dynamic_batch_size, distributed.rank(), distributed.world_size())
    with ThreadPoolExecutor(max(1, options.workers)) as threads:
        take_turns(run, variants, warm_up, dataset, rows, batches, threads)

    mine = torch.tensor(batches.indices, dtype=torch.int64)
    outcomes = [(variant, *_gather(variant, mine, len(rows), model)) for variant in variants]
    agree = True
    if distributed.is_main_process():
        labels = dataset.labels[torch.from_numpy(rows)]
        for line in speed_table(outcomes, gflops, labels, dataset.config.metric, options):
            logger.line(line)
        tie = TIE if options.eval_precision == "float32" else TIE_BELOW_FLOAT32
        for variant, answer, _ in outcomes:
            agreement = compare_with_simulation(
                answer, simulated.logits, simulated.focus_indices, variant.thresholds, options.criterion, tie
            )
            counts = torch.bincount(answer.exits, minlength=len(gflops)).tolist()
            logger.line(f"{variant.name}: videos at each exit {' '.join(map(str, counts))}")
            logger.line(f"{variant.name}: {agreement.describe(lambda row: dataset.video_name(rows[row]))}")
            agree = agree and not agreement.unexplained
    return distributed.broadcast_object(agree)


def take_turns(
    run: Run,
    variants: Sequence[Variant],
    warm_up: Sequence[EarlyExitInference],
    dataset: VideoDataset,
    rows: np.ndarray,
    batches: EvaluationBatches,
    threads: Executor,
) -> None:
    """Run each batch, places in `rows`, by all variants, in turns in which everyone is first equally often.

    warm_up: what has a first video before, since the first call of anything is slow. Raises Stopped, on all processes,
    when a signal comes.
    """
    for number, places in enumerate(run.log.progress(batches, "for real")):
        batch = rows[places]
        for inference in warm_up if number == 0 else ():
            inference(FolderFrames(dataset, batch[:1], threads))
        turn = number % len(variants)
        for variant in [*variants[turn:], *variants[:turn]]:
            source = FolderFrames(dataset, batch, threads)
            started = time.perf_counter()
            variant.answers.append(variant.inference(source))
            variant.seconds.append(time.perf_counter() - started)
            variant.reading.append(source.seconds)
        if number < batches.common_steps and (stop := run.stop.agreed()):
            raise Stopped(stop)


def speed_table(
    outcomes: Sequence[tuple[Variant, Answer, Timing]],
    gflops: Sequence[float],
    labels: Tensor,
    metric: str,
    options: argparse.Namespace,
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
    costs = np.array(gflops)
    _, _, full = outcomes[0]
    for variant, answer, timing in outcomes:
        predicted, spent = float(costs[answer.exits].mean()), float(costs[answer.patches].mean())
        median, high = 1000 * np.percentile(timing.batches, (50, 95))
        yield (
            f"{variant.name:13s} {predicted:7.3f} {spent:7.3f} {main_metric(answer.logits, labels, metric):7.2f} "
            f"{len(labels) / timing.total:9.2f} {median:19.1f} {high:10.1f} {_saved(predicted, gflops[-1]):>16s} "
            f"{_saved(timing.total, full.total):>8s} {_saved(timing.without_reading, full.without_reading):>22s}"
        )


def _saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.1f} %"


def _gather(variant: Variant, rows: Tensor, videos: int, model: UniAdaFocus) -> tuple[Answer | None, Timing]:
    """All processes' answers [M], on the main process, and times."""
    shapes = {"logits": (0, model.num_classes), "focus_indices": (0, model.num_focus_segments)}
    parts = {}
    for name in ("logits", "exits", "patches", "focus_indices"):
        dtype = torch.float32 if name == "logits" else torch.int64
        empty = torch.empty(shapes.get(name, (0,)), dtype=dtype)  # for a process without a video
        mine = torch.cat([empty, *(getattr(answer, name) for answer in variant.answers)])
        parts[name] = distributed.gather_rows(mine, rows, videos)
    times = distributed.gather_objects((variant.seconds, variant.reading))
    timing = Timing(
        total=max(sum(seconds) for seconds, _ in times),
        without_reading=max(sum(seconds) - sum(reading) for seconds, reading in times),
        batches=np.concatenate([seconds for seconds, _ in times]),
    )
    return (None if parts["logits"] is None else Answer(**parts)), timing
