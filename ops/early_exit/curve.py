"""Sample-wise early exit as arithmetic on logits: when a video may stop, thresholds, and the accuracy-to-cost curve.

Sample-wise dynamic computation of the paper (arXiv 2412.11228); budgets and thresholds after MSDNet (Huang et al., ICLR
2018). The K exits are the last glance step and every focus step. For p = 1..19 exit k is given a share of the videos
proportional to (p/20)^k; thresholds are found on the training split and used on the validation split.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops import metrics
from ops.metrics import ArrayLike, cpu_float32, row_chunks

CRITERIA = ("confidence", "entropy")
POINTS = range(1, 20)


@dataclass(frozen=True, eq=False)
class ExitPoint:
    """One point of the curve.

    p: 1..19, a larger p keeps videos longer; gflops: mean cost of a validation video, in the unit of the costs given;
    metric: percent; random_metric: percent when as many videos leave at each exit, but chosen at random;
    exit_ratio: float32 [K], the share of the validation videos that leaves at each exit (0..1);
    thresholds: float32 [K], +inf where no video may leave, -inf at the last exit.
    """

    p: int
    gflops: float
    metric: float
    random_metric: float
    exit_ratio: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class ExitCurves:
    """The operating points of each criterion, and what they are compared with; metrics in percent."""

    metric: str  # "map" or "accuracy"
    gflops: list[float]  # [K], of each exit
    points: dict[str, list[ExitPoint]]  # by criterion
    fixed: list[float]  # [K], the metric of always stopping at an exit


def criterion_values(logits: ArrayLike, criterion: str) -> Tensor:
    """How sure a prediction is; larger is surer. Logits [..., C] -> float32 [...], on the CPU.

    "confidence": the largest raw logit. "entropy": sum of p log p over the classes, 0 when certain, -log C when
    uniform. A row's value depends on nothing but that row, to the last bit: not on the batch or on the device the
    logits come from, so inference one video at a time decides exactly as the thresholds were found. Logits that are not
    finite are not looked for here. Raises ValueError for an unknown criterion.
    """
    logits = cpu_float32(logits).contiguous()
    if criterion == "confidence":
        return logits.amax(dim=-1)
    if criterion == "entropy":
        # The clamp changes only log p = -inf, where 0 * -inf would be nan.
        log_probability = logits.log_softmax(dim=-1).clamp_(min=torch.finfo(torch.float32).min)
        return log_probability.exp().mul_(log_probability).sum(dim=-1)
    raise ValueError(f"unknown criterion {criterion!r}; choose one of {', '.join(CRITERIA)}")


def exit_decisions(logits: ArrayLike, thresholds: ArrayLike, criterion: str) -> Tensor:
    """The exit, 0..K-1, at which each video leaves: int64 [N], on the CPU.

    logits [N, K, C]; thresholds [K]. A video leaves at the first exit whose value reaches the threshold; the last exit
    takes all that are left, whatever its threshold. Raises ValueError for logits that are not finite.
    """
    values = _exit_values(logits, criterion, "logits")
    return torch.from_numpy(_first_exit(values, np.asarray(thresholds, np.float32)))


def exit_counts(videos: int, exits: int, p: int) -> list[int]:
    """How many of the videos each exit is to take at point p: floor(videos * share), share proportional to (p/20)^k.

    The published shares are float32, the powers taken as exp(k log(p/20)). Where videos * share is a whole number, that
    rounding decides: 21 % of 800 videos are 167. The steps here round alike, and on every machine the same.
    """
    ratio = np.float32(p / 20)
    log_ratio = float(np.float32(math.log(ratio)))
    powers = [ratio] + [np.float32(math.exp(k * log_ratio)) for k in range(2, exits + 1)]
    total = np.float32(float(ratio) * (1.0 - float(ratio) ** exits) / (1.0 - float(ratio)))
    return [math.floor(np.float32(videos) * (power / total)) for power in powers]


def exit_thresholds(values: np.ndarray, p: int) -> np.ndarray:
    """Thresholds for point p from the values [N, K] of the training videos: float32 [K].

    Exit by exit, the threshold is the value of the last one of the `exit_counts` most confident among the videos still
    there; all that reach it leave, so ties leave together. If ties have left fewer videos than an exit is to take, it
    takes them all. An exit that is to take none, or finds none left, gets +inf; the last exit gets -inf.
    """
    videos, exits = values.shape
    thresholds = np.full(exits, np.inf, dtype=np.float32)
    thresholds[-1] = -np.inf
    still_there = np.arange(videos)
    for k, count in enumerate(exit_counts(videos, exits, p)[:-1]):
        count = min(count, len(still_there))
        if count == 0:
            continue
        candidates = values[still_there, k]
        thresholds[k] = np.partition(candidates, -count)[-count]
        still_there = still_there[candidates < thresholds[k]]
    return thresholds


def exit_curve(
    train_logits: ArrayLike,
    val_logits: ArrayLike,
    val_labels: ArrayLike,
    gflops: Sequence[float] | ArrayLike,
    criterion: str,
    metric: str,
    seed: int = 0,
) -> list[ExitPoint]:
    """The curve of accuracy against cost, one `ExitPoint` for each p = 1..19.

    Args:
        train_logits, val_logits: [N, K, C] and [M, K, C], of the K exits, each video once.
        val_labels: [M, L] padded with -1, or [M].
        gflops: [K], cost of a video that leaves at each exit.
        criterion: "confidence" or "entropy".
        metric: "map" or "accuracy" (top-1 of the first label).
        seed: of the random choice behind `random_metric`.

    With "map" a float32 array of the size of val_logits is held. Raises ValueError when shapes do not fit together, for
    an unknown criterion or metric, and for logits that are not finite.
    """
    costs = np.asarray(gflops, np.float64)
    train_shape, val_shape = tuple(train_logits.shape), tuple(val_logits.shape)
    if len(train_shape) != 3 or train_shape[1:] != val_shape[1:]:
        raise ValueError(
            f"training logits {train_shape} and validation logits {val_shape}: expected [N, K, C], [M, K, C]"
        )
    if costs.shape != (val_shape[1],):
        raise ValueError(f"gflops has shape {costs.shape}; expected one cost for each of the {val_shape[1]} exits")
    if len(val_labels) != val_shape[0]:
        raise ValueError(f"{len(val_labels)} rows of labels for {val_shape[0]} validation videos")

    metrics.check_metric(metric)
    train_values = _exit_values(train_logits, criterion, "training logits")
    val_values = _exit_values(val_logits, criterion, "validation logits")
    score = _metric_of_exits(val_logits, val_labels, metric)
    random_choice = np.random.default_rng(seed)

    thresholds = [exit_thresholds(train_values, p) for p in POINTS]
    exits = [_first_exit(val_values, row) for row in thresholds]
    random_exits = [random_choice.permutation(row) for row in exits]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        scores = list(pool.map(score, exits + random_exits))

    counts = [np.bincount(row, minlength=len(costs)) for row in exits]
    return [
        ExitPoint(
            p=p,
            gflops=float(counts[i] @ costs) / len(val_values),
            metric=scores[i],
            random_metric=scores[i + len(POINTS)],
            exit_ratio=(counts[i] / len(val_values)).astype(np.float32),
            thresholds=thresholds[i],
        )
        for i, p in enumerate(POINTS)
    ]


def compute_curves(
    calibration: Tensor, logits: Tensor, labels: Tensor, gflops: Sequence[float], metric: str, seed: int
) -> ExitCurves:
    """The curves of both criteria.

    Args:
        calibration: logits [N, K, C] that the thresholds are found on.
        logits, labels: [M, K, C] and [M, 3], evaluated.
        gflops, metric, seed: as for `exit_curve`.
    """
    points = {name: exit_curve(calibration, logits, labels, gflops, name, metric, seed) for name in CRITERIA}
    fixed = [metrics.main_metric(logits[:, number], labels, metric) for number in range(len(gflops))]
    return ExitCurves(metric, list(gflops), points, fixed)


def _metric_of_exits(logits: ArrayLike, labels: ArrayLike, metric: str) -> Callable[[np.ndarray], float]:
    """The metric, in percent, as a function of the exit [N] at which each video leaves.

    What does not depend on the choice of exits is worked out here, once.
    """
    number, exit_number, classes = logits.shape
    videos = np.arange(number)
    if metric == "accuracy":
        first_label = metrics.label_rows(labels)[:, 0]
        ranks = [metrics.target_rank(logits[:, k], first_label).numpy() for k in range(exit_number)]
        correct = np.stack(ranks, axis=1) == 0
        return lambda exits: 100.0 * float(correct[videos, exits].mean())

    positives = metrics.Positives.from_labels(labels, number, classes)
    probabilities = np.empty((number, exit_number, classes), dtype=np.float32)
    for rows in row_chunks(number, exit_number * classes):
        probabilities[rows] = cpu_float32(logits[rows]).softmax(dim=-1).numpy()
    precision = metrics.average_precision
    return lambda exits: metrics.mean_over_classes(precision(probabilities[videos, exits], positives))


def _first_exit(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    if thresholds.shape != values.shape[1:]:
        raise ValueError(f"thresholds have shape {thresholds.shape}; expected one for each of {values.shape[1]} exits")
    reached = values >= thresholds
    reached[:, -1] = True
    return reached.argmax(axis=1)


def _exit_values(logits: ArrayLike, criterion: str, name: str) -> np.ndarray:
    """The criterion at every exit, float32 [N, K], once every logit is known to be finite."""
    if logits.ndim != 3 or 0 in logits.shape:
        raise ValueError(f"{name} have shape {tuple(logits.shape)}; expected [videos, exits, classes], none of them 0")
    values = np.empty(tuple(logits.shape[:2]), dtype=np.float32, order="F")  # read exit by exit
    for rows in row_chunks(len(logits), logits.shape[1] * logits.shape[2]):
        chunk = cpu_float32(logits[rows])
        finite = chunk.amin(dim=-1).isfinite() & chunk.amax(dim=-1).isfinite()
        if not finite.all():
            video, exit_number = (~finite).nonzero()[0].tolist()
            raise ValueError(f"{name} of video {rows.start + video} at exit {exit_number} (both from 0) are not finite")
        values[rows] = criterion_values(chunk, criterion).numpy()
    return values
