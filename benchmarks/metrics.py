"""mAP of a large split, and the early-exit curves, against the published way: all videos are sorted for every class.

python -m benchmarks.metrics
python -m benchmarks.metrics --rounds 3 --videos 20000 --classes 200
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.measuring import Row, row_of, run, take_turns
from ops.early_exit.curve import CRITERIA, exit_curve, exit_decisions
from ops.metrics import mean_average_precision
from ops.utils.errors import run_entry

# The split whose mAP is computed, and those of the early-exit curves: ActivityNet's.
OPTIONS = {
    "rounds": 1, "videos": 100_000, "classes": 400, "train_videos": 10_024, "val_videos": 4_926, "exits": 17,
    "exit_classes": 200,
}  # fmt: skip


def random_labels(videos: int, classes: int) -> Tensor:
    """int64 [N, 3]: one label for each video, two for every third, every class among them."""
    labels = torch.full((videos, 3), -1)
    labels[:, 0] = torch.arange(videos) % classes
    labels[::3, 1] = torch.randint(classes, (len(labels[::3]),), generator=torch.Generator().manual_seed(0))
    return labels


def published_average_precision(logits: Tensor, labels: Tensor) -> Tensor:
    """AP of each class in percent, [C], as published: all videos are sorted for every class, on dense labels [N, C]."""
    videos, classes = logits.shape
    dense = torch.zeros(videos, classes + 1)
    dense.scatter_(1, labels.where(labels >= 0, classes), 1.0)
    probabilities, ranks = logits.softmax(dim=1), torch.arange(1, videos + 1).float()
    result = torch.zeros(classes)
    for number in range(classes):
        truth = dense[:, number][probabilities[:, number].sort(descending=True).indices]
        precision = truth.cumsum(0) / ranks
        result[number] = 100 * precision[truth.bool()].sum() / truth.sum()
    return result


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """mAP of one head, and both early-exit curves."""
    generator = torch.Generator().manual_seed(0)
    videos, classes = arguments.videos, arguments.classes
    some, some_labels = torch.randn(videos, classes, generator=generator), random_labels(videos, classes)
    yield _row(
        f"mAP of {videos} videos x {classes} classes, s",
        lambda: published_average_precision(some, some_labels),
        lambda: mean_average_precision(some, some_labels)[1],
        "a class's AP",
        arguments.rounds,
    )
    videos, exits, classes = arguments.val_videos, arguments.exits, arguments.exit_classes
    train = torch.randn(arguments.train_videos, exits, classes, generator=generator)
    logits, labels = torch.randn(videos, exits, classes, generator=generator), random_labels(videos, classes)
    costs = torch.linspace(5, 27, exits)

    def ours() -> Tensor:
        both = [exit_curve(train, logits, labels, costs, name, "map") for name in CRITERIA]
        return torch.tensor([point.metric for points in both for point in points])

    curves = {name: exit_curve(train, logits, labels, costs, name, "map") for name in CRITERIA}

    def published() -> Tensor:  # with our thresholds: the mAPs take the time
        metrics, rows = [], torch.arange(videos)
        for name, points in curves.items():
            for point in points:
                left = exit_decisions(logits, point.thresholds, name)
                for exit_numbers in (left, left[torch.randperm(videos, generator=generator)]):  # and at random exits
                    metrics.append(published_average_precision(logits[rows, exit_numbers], labels).mean())
        return torch.stack(metrics[::2])

    what = f"early-exit curves, {arguments.train_videos} + {videos} videos, s"
    yield _row(what, published, ours, "mAP", arguments.rounds)


def _row(what: str, published: Callable[[], Tensor], ours: Callable[[], Tensor], figure: str, rounds: int) -> Row:
    seconds, found = take_turns({"yardstick": published, "ours": ours}, rounds)
    apart = float((found["yardstick"] - found["ours"]).abs().max())
    return row_of(what, seconds, f"{apart:.1e} percent points of {figure}")


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
