"""How good predictions are: top-k accuracy, mean average precision (mAP), and the named figures of an evaluation.

The definitions are those of the published results (arXiv 2412.11228): mAP ranks the videos of each class by their
float32 softmax probability and takes the non-interpolated average precision. Everything is computed on the CPU, so a
figure does not depend on the device that the logits come from.
"""

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

ArrayLike = Tensor | np.ndarray
METRICS = ("map", "accuracy")
METRIC_NAMES = {"map": "mAP", "accuracy": "top-1 accuracy"}  # for people
MAIN_METRIC = {"map": "mAP", "accuracy": "Acc_pred@1"}  # of an evaluation, by which the best checkpoint is chosen
HEADS = ("pred", "cat", "global", "local", "temporal", "spatial")
TOP_K = (1, 5)
TRAINING_ACCURACIES = tuple(f"Acc_{head}@{k}" for head in HEADS for k in TOP_K)
CHUNK_ELEMENTS = 2_000_000  # working arrays hold about this many numbers, however large the dataset


def step_mean(step_logits: ArrayLike) -> Tensor:
    """Mean over the steps of the softmax of each step's logits: [B, K, C] -> float32 [B, C], on the same device."""
    return torch.as_tensor(step_logits).float().softmax(dim=-1).mean(dim=1)


def accuracy(logits: ArrayLike, target: ArrayLike, topk: Sequence[int] = (1, 5)) -> list[float]:
    """Share of the videos, in percent, whose true class is among the k classes with the largest logits, for each k.

    logits [N, C]; target [N], class numbers from 0. A k above C counts as C. Among equal logits the lower class number
    comes first. Raises ValueError for no videos, logits that are not finite, and targets outside 0..C-1.
    """
    rank = target_rank(logits, target)
    return [100.0 * int((rank < k).sum()) / len(rank) for k in topk]


def target_rank(logits: ArrayLike, target: ArrayLike) -> Tensor:
    """Place of the true class among the logits, 0 for the largest: int64 [N]. Arguments and errors as `accuracy`."""
    logits = checked_logits(logits)
    videos, classes = logits.shape
    target = torch.as_tensor(target).cpu().long()
    if target.shape != (videos,):
        raise ValueError(
            f"target has shape {tuple(target.shape)}; expected one class number for each of {videos} videos"
        )
    _check_classes(target, 0, classes)
    return torch.cat([_rank(logits[rows], target[rows]) for rows in row_chunks(videos, classes)])


def training_accuracy(logits_by_head: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    """Top-1 and top-5 accuracy of a batch, in percent, as scalars on the device of the logits, without waiting for it.

    logits_by_head: [B, C] each, under the names in `HEADS`; target: int64 [B]. Returns `TRAINING_ACCURACIES` by name.
    """
    ranks = {head: _rank(logits_by_head[head].detach(), target) for head in HEADS}
    return {f"Acc_{head}@{k}": 100.0 * (ranks[head] < k).float().mean() for head in HEADS for k in TOP_K}


def _rank(logits: Tensor, target: Tensor) -> Tensor:
    """Place of the target [B] among logits [B, C], 0 for the largest, ties in the order of the classes: int64 [B]."""
    true_class = target[:, None]
    true_logit = logits.gather(1, true_class)
    class_numbers = torch.arange(logits.shape[1], device=logits.device)
    return ((logits > true_logit) | ((logits == true_logit) & (class_numbers < true_class))).sum(dim=1)


def mean_average_precision(logits: ArrayLike, labels: ArrayLike) -> tuple[float, Tensor]:
    """mAP in percent, and the average precision of each class in percent.

    logits [N, C], softmaxed here in float32; labels [N, L] int, class numbers from 0, padded with -1 (or [N], one label
    each). Equal probabilities rank in the order of the rows. A class that no video has is left out of the mean, with a
    warning that counts such classes, and is nan in the returned float64 [C]. Raises ValueError for no videos, logits
    that are not finite, and labels outside -1..C-1.
    """
    per_class = precision_of_classes(logits, labels)
    if note := classes_without_video(labels, len(per_class)):
        warnings.warn(note, stacklevel=2)
    return mean_over_classes(per_class), torch.from_numpy(per_class)


def precision_of_classes(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The average precisions [C] of `mean_average_precision`, which has the arguments and errors too; no warning."""
    logits = checked_logits(logits)
    return average_precision(logits.softmax(dim=1).numpy(), Positives.from_labels(labels, *logits.shape))


def classes_without_video(labels: ArrayLike, classes: int) -> str:
    """How many of the classes no video has, so that a mAP leaves them out, for people; "" where each has one.

    labels [N, L], class numbers from 0, padded with -1 (or [N]).
    """
    labels = label_rows(labels)
    without = classes - len(labels[labels >= 0].unique())
    return (
        f"{without} of {classes} classes have no video among these {len(labels)}; they are left out of the mAP"
        if without
        else ""
    )


def main_metric(logits: ArrayLike, labels: ArrayLike, metric: str) -> float:
    """mAP, or top-1 accuracy of the first label, in percent. logits [N, C]; labels [N, L] padded with -1.

    Of classes without a video, `classes_without_video` tells.
    """
    if metric == "map":
        return mean_over_classes(precision_of_classes(logits, labels))
    return accuracy(logits, label_rows(labels)[:, 0], topk=(1,))[0]


def evaluation_metrics(logits_by_head: Mapping[str, ArrayLike], labels: ArrayLike, metric: str) -> dict[str, float]:
    """The figures that an evaluation reports, in percent, under their published names.

    logits_by_head: [N, C] each, under the names in `HEADS`: "pred" the logits of the last step; "cat", "global" and
    "local" the `step_mean` of all, of the glance and of the focus steps; "temporal" and "spatial" the logits of the
    two policies. labels [N, L], padded with -1. metric: "map" or "accuracy". `Prec@1` and `Prec@5` are the accuracies
    of the last step and come with both; every accuracy is of the first label. Of classes without a video, which mAP
    leaves out, `classes_without_video` tells.
    """
    check_metric(metric)
    missing = [head for head in HEADS if head not in logits_by_head]
    if missing:
        raise ValueError(f"no logits for {', '.join(missing)}; expected {', '.join(HEADS)}")
    first_label = label_rows(labels)[:, 0]
    if metric == "accuracy":
        by_head = {head: accuracy(logits_by_head[head], first_label, TOP_K) for head in HEADS}
        figures = {f"Acc_{head}@{k}": by_head[head][place] for place, k in enumerate(TOP_K) for head in HEADS}
        return figures | {f"Prec@{k}": figures[f"Acc_pred@{k}"] for k in TOP_K}

    logits = {head: checked_logits(logits_by_head[head]) for head in HEADS}
    positives = Positives.from_labels(labels, *logits["pred"].shape)

    def score(head_logits: Tensor) -> float:
        return mean_over_classes(average_precision(head_logits.softmax(dim=1).numpy(), positives))

    figures = {"mAP": score(logits["pred"]), "smAP": score(logits["pred"].softmax(dim=1))}
    figures |= {f"{head.capitalize()}_mAP": score(logits[head]) for head in HEADS if head != "pred"}
    precisions = accuracy(logits["pred"], first_label, TOP_K)
    return figures | {f"Prec@{k}": value for k, value in zip(TOP_K, precisions, strict=True)}


@dataclass(frozen=True)
class Positives:
    """Every pair of a class and a video that has it, P in all, sorted by class and then by row."""

    videos: int
    classes: np.ndarray  # int64 [P]
    rows: np.ndarray  # int64 [P]
    starts: np.ndarray  # int64 [C + 1]: the pairs of class c are starts[c] .. starts[c + 1] - 1

    @classmethod
    def from_labels(cls, labels: ArrayLike, videos: int, classes: int) -> "Positives":
        """Arguments as `mean_average_precision`; a label repeated in a row counts once."""
        labels = label_rows(labels)
        if len(labels) != videos:
            raise ValueError(f"{len(labels)} rows of labels for {videos} rows of logits")
        _check_classes(labels, -1, classes)
        row = torch.arange(videos)[:, None].expand_as(labels)
        pairs = (labels * videos + row)[labels >= 0].unique().numpy()
        starts = np.searchsorted(pairs, np.arange(classes + 1) * videos)
        return cls(videos, pairs // videos, pairs % videos, starts)


def average_precision(probabilities: np.ndarray, positives: Positives) -> np.ndarray:
    """Percent per class, float64 [C], from float32 probabilities [N, C]; nan for a class without a positive."""
    videos, classes = probabilities.shape
    if (videos, classes + 1) != (positives.videos, len(positives.starts)):
        raise ValueError(f"{videos} x {classes} logits; labels of {positives.videos} x {len(positives.starts) - 1}")
    chunks = row_chunks(classes, videos)
    if len(chunks) == 1:
        return _average_precision_of(probabilities, positives, chunks[0])
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy sorts without holding the interpreter lock
        return np.concatenate(
            list(pool.map(lambda chunk: _average_precision_of(probabilities, positives, chunk), chunks))
        )


def _average_precision_of(probabilities: np.ndarray, positives: Positives, chunk: slice) -> np.ndarray:
    # Only the ranks of the positives matter: looking them up in sorted values is several times faster than an argsort.
    scores = np.ascontiguousarray(probabilities[:, chunk].T)  # [c, N]
    ascending = np.sort(scores, axis=1)
    starts = positives.starts[chunk.start : chunk.stop + 1]
    pairs = slice(starts[0], starts[-1])
    starts = starts - starts[0]
    rows, classes = positives.rows[pairs], positives.classes[pairs] - chunk.start
    values = scores[classes, rows]

    not_above = np.empty(len(rows), dtype=np.int64)
    for column, start, stop in zip(ascending, starts[:-1], starts[1:], strict=True):
        not_above[start:stop] = np.searchsorted(column, values[start:stop], side="right")
    rank = positives.videos - not_above + 1
    tied = (not_above > 1) & (ascending[classes, np.maximum(not_above, 2) - 2] == values)
    for i in np.flatnonzero(tied):
        rank[i] += np.count_nonzero(scores[classes[i], : rows[i]] == values[i])

    class_offset = classes * (positives.videos + 1)  # keeps the classes apart in one sort
    rank = np.sort(class_offset + rank) - class_offset
    hits = np.arange(len(rows)) - starts[classes] + 1  # positives down to this rank, itself included
    counts = np.diff(starts)
    total = np.bincount(classes, hits / rank, minlength=len(counts))
    return np.divide(100.0 * total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def mean_over_classes(per_class: np.ndarray) -> float:
    """Mean of the classes that are not nan; nan if there is none."""
    present = per_class[~np.isnan(per_class)]
    return float(present.mean()) if len(present) else float("nan")


def check_metric(metric: str) -> None:
    """Raise ValueError for a name that is not in `METRICS`."""
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; choose one of {', '.join(METRICS)}")


def checked_logits(logits: ArrayLike) -> Tensor:
    """Logits [N, C] as float32 on the CPU, once they are known to be finite; ValueError otherwise."""
    logits = cpu_float32(logits)
    if logits.ndim != 2 or logits.numel() == 0:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}; expected [videos, classes] with at least one of each"
        )
    finite = logits.amin(dim=1).isfinite() & logits.amax(dim=1).isfinite()
    if not finite.all():
        raise ValueError(f"the logits of video {int((~finite).nonzero()[0])} (row, from 0) are not finite")
    return logits


def label_rows(labels: ArrayLike) -> Tensor:
    """Labels as int64 [N, L] on the CPU; [N] becomes [N, 1]."""
    labels = torch.as_tensor(labels).cpu().long()
    labels = labels[:, None] if labels.ndim == 1 else labels
    if labels.ndim != 2 or labels.numel() == 0:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}; expected [videos, labels] with at least one of each"
        )
    return labels


def _check_classes(labels: Tensor, lowest: int, classes: int) -> None:
    outside = labels[(labels < lowest) | (labels >= classes)]
    if len(outside):
        raise ValueError(
            f"a label is {int(outside[0])}; expected {lowest}..{classes - 1} for logits of {classes} classes"
        )


def cpu_float32(array: ArrayLike) -> Tensor:
    """The numbers as a float32 tensor on the CPU; shares memory where that is possible."""
    if not isinstance(array, Tensor):
        array = torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copies what is memory-mapped read-only
    return array.detach().to("cpu", torch.float32)


def row_chunks(length: int, width: int) -> list[slice]:
    """Slices that cover `length` rows of `width` numbers each, about `CHUNK_ELEMENTS` numbers at a time."""
    step = max(1, CHUNK_ELEMENTS // width)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
