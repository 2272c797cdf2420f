"""An evaluation in detail: how good each class is, and what it is taken for.

per_class.csv has a row per class: class (its number), name; videos, that have it (with several labels, each counts; for
the metric "accuracy", the first label); AP or accuracy in percent, empty for a class without videos; predicted, how
many videos it is the likeliest class of; and, where each video has one label, confused_with, the class that its videos
are most often wrongly given, and confused_videos, how many are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from ops.metrics import precision_of_classes
from ops.report.files import write_csv
from ops.report.style import AXES, FONT, fitted, new_figure

SCORES = {"map": "AP", "accuracy": "accuracy"}  # of a class, by metric
NAMED_CLASSES = 40  # a confusion matrix of more has numbers in place of names


@dataclass(frozen=True)
class ClassResult:
    """One class in an evaluation; the fields are explained above."""

    number: int
    name: str
    videos: int
    score: float  # percent, nan without videos
    predicted: int
    confused_with: int | None = None
    confused_videos: int = 0


def class_results(logits: Tensor, labels: Tensor, metric: str, class_names: Sequence[str]) -> list[ClassResult]:
    """Each class in an evaluation: logits [N, C], labels int64 [N, L] padded with -1, metric "map" or "accuracy"."""
    classes = len(class_names)
    predicted = logits.argmax(1)
    if metric == "map":
        scores = precision_of_classes(logits, labels)
        has_class = torch.zeros(len(labels), classes + 1, dtype=torch.bool)
        has_class[torch.arange(len(labels))[:, None], labels] = True  # padding goes to the last column
        videos = has_class[:, :classes].sum(0)
    else:
        videos = labels[:, 0].bincount(minlength=classes)
        right = labels[predicted == labels[:, 0], 0].bincount(minlength=classes)
        scores = 100.0 * right.double() / videos  # nan where there is none
    confused: list[tuple[int | None, int]] = [(None, 0)] * classes
    if has_one_label(labels):
        wrong = confusion_matrix(logits, labels)
        np.fill_diagonal(wrong, 0)
        # The most frequent wrong class, of equally frequent ones the first.
        confused = [(int(row.argmax()), int(row.max())) if row.any() else (None, 0) for row in wrong]
    counts = predicted.bincount(minlength=classes)
    return [
        ClassResult(number, name, int(videos[number]), float(scores[number]), int(counts[number]), *confused[number])
        for number, name in enumerate(class_names)
    ]


def has_one_label(labels: Tensor) -> bool:
    """Whether no video of labels [N, L] has a second one."""
    return bool((labels[:, 1:] < 0).all())


def confusion_matrix(logits: Tensor, labels: Tensor) -> np.ndarray:
    """How many videos of each class (rows, by first label) are given each class (columns): int64 [C, C]."""
    classes = logits.shape[1]
    pairs = labels[:, 0] * classes + logits.argmax(1)
    return pairs.bincount(minlength=classes * classes).view(classes, classes).numpy()


def write_per_class(path: Path, results: Sequence[ClassResult], metric: str) -> None:
    """Write the table described above. Raises UserError where that fails."""
    rows = [["class", "name", "videos", SCORES[metric], "predicted", "confused_with", "confused_videos"]]
    for result in results:
        score = f"{result.score:.4f}" if result.videos else ""
        confused = (results[result.confused_with].name, result.confused_videos) if result.confused_videos else ("", "")
        rows.append([result.number, result.name, result.videos, score, result.predicted, *confused])
    write_csv(path, rows)


def per_class_table(results: Sequence[ClassResult], metric: str) -> str:
    """The classes as a Markdown table, the worst first and those without videos last."""
    lines = [f"| class | name | videos | {SCORES[metric]} (%) | predicted |", "|--:|:--|--:|--:|--:|"]
    for result in sorted(results, key=lambda result: (not result.videos, result.score if result.videos else 0)):
        name = "".join(f"\\{c}" if c in r"\`*_{}[]()<>#+-.!|~" else c for c in " ".join(result.name.split()))
        score = f"{result.score:.2f}" if result.videos else ""
        lines.append(f"| {result.number} | {name} | {result.videos} | {score} | {result.predicted} |")
    return "\n".join(lines)


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """A `confusion_matrix` as a picture: each row in percent of its class's videos; rows without videos stay grey."""
    classes = len(matrix)
    named = classes <= NAMED_CLASSES
    side = min(7.0, max(2.5, 0.2 * classes)) if named else 7.0
    figure = new_figure(side + 2.2, side + 1.6, dpi=100, layout="compressed")
    axes = figure.add_subplot()
    videos = matrix.sum(1, keepdims=True)
    shares = np.divide(100.0 * matrix, videos, out=np.full(matrix.shape, np.nan), where=videos > 0)
    axes.set_facecolor("#bbbbbb")
    # Pixels, not smoothed: with hundreds of classes a single wrong column must not vanish between its neighbours.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.02, ticks=[0, 1, 5, 20, 50, 100])
    bar.set_label("% of the true class's videos", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    if named:
        names = [fitted(name, figure, 1.4, FONT - 2) for name in class_names]
        axes.set_xticks(range(classes), names, rotation=90)
        axes.set_yticks(range(classes), names)
    axes.tick_params(labelsize=FONT - 2 if named else FONT - 1, color=AXES, length=2)
    axes.set_xlabel("predicted class", fontsize=FONT)
    axes.set_ylabel("true class", fontsize=FONT)
    return figure
