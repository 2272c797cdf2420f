"""How time and memory grow: with videos, segments, classes and processes.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --tables metrics gather
    python benchmarks/scaling.py --tables network --rounds 5

    metrics    the figures of an evaluation, mAP and accuracy of all heads, over videos and classes; and against the
               published way, which sorts all videos for every class
    gather     putting the logits of all processes together, over processes and videos
    network    evaluation, at the published sizes, and a training step, on frames of 128 and patches of 64 pixels, over
               videos at a time, segments and classes

Each line doubles the line before. Printed are seconds (of the quickest of the rounds), the GB at the peak beyond what
the process held before, both once more as times the line before, and the exponent: 1 where twice as much takes twice as
long, 0 where it takes no longer. What does not depend on the size keeps it below 1.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

if __name__ in ("__main__", "__mp_main__"):  # by its path: look for modules in the repository, not in benchmarks/
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ops.waiting import wait_briefly

    wait_briefly()  # before torch is loaded

import torch
from torch import Tensor

from benchmarks.baseline import Contestant, step_of
from benchmarks.measuring import peak_memory, peak_of_this_process, ratio, take_turns
from benchmarks.rows import Row
from ops import distributed
from ops.errors import EXIT_DONE, run_entry
from ops.exit_curve import CRITERIA, exit_curve, exit_decisions
from ops.metrics import HEADS, METRICS, evaluation_metrics, mean_average_precision
from opts import whole

CPU = torch.device("cpu")
SIZES = {
    "num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224, "patch_size": 128,
    "classes": 200, "batch_size": 2, "device": "cpu",
}  # fmt: skip
Work = Callable[[], object]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the values over the sizes, both as logarithms: least squares."""
    x, y = [math.log(size) for size in sizes], [math.log(max(value, 1e-9)) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def show_growth(title: str, sizes: Sequence[int], seconds: Sequence[float], memory: Sequence[float]) -> None:
    """Print one line for each size, and the exponents; memory in GB."""
    print(f"\n{title:<44}{'s':>9}{'GB':>9}{'times s':>10}{'times GB':>10}")
    for place, size in enumerate(sizes):
        line = f"{size:>44}{seconds[place]:>9.2f}{memory[place]:>9.3f}"
        if place:
            line += f"{seconds[place] / seconds[place - 1]:>10.2f}{memory[place] / max(memory[place - 1], 1e-6):>10.2f}"
        print(line)
    print(f"{'exponent':>44}{exponent(sizes, seconds):>9.2f}{exponent(sizes, memory):>9.2f}", flush=True)


def measure(title: str, sizes: Sequence[int], make: Callable[..., Work], rounds: int, *arguments: object) -> None:
    """Show the growth of `make(size, *arguments)()`; the sizes take turns."""
    seconds, _ = take_turns({str(size): make(size, *arguments) for size in sizes}, rounds, CPU)
    memory = [peak_memory(make, size, *arguments) for size in sizes]
    show_growth(title, sizes, [min(seconds[str(size)]) for size in sizes], memory)


def random_labels(videos: int, classes: int) -> Tensor:
    """int64 [N, 3]: one label for each video, two for every third, every class among them."""
    labels = torch.full((videos, 3), -1)
    labels[:, 0] = torch.arange(videos) % classes
    labels[::3, 1] = torch.randint(classes, (len(labels[::3]),), generator=torch.Generator().manual_seed(0))
    return labels


def metrics_over_videos(videos: int, classes: int) -> Work:
    """All figures of an evaluation, for both kinds of dataset."""
    logits, labels = {head: torch.randn(videos, classes) for head in HEADS}, random_labels(videos, classes)
    return lambda: [evaluation_metrics(logits, labels, metric) for metric in METRICS]


def metrics_over_classes(classes: int, videos: int) -> Work:
    return metrics_over_videos(videos, classes)


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


def metrics_row(videos: int = 100_000, classes: int = 400, rounds: int = 1) -> Row:
    """mAP of one head, against the published way."""
    logits, labels = torch.randn(videos, classes), random_labels(videos, classes)
    return _row_of(
        f"mAP of {videos} videos x {classes} classes, s",
        lambda: published_average_precision(logits, labels),
        lambda: mean_average_precision(logits, labels)[1],
        "percent points of a class's AP",
        rounds,
    )


def exit_curves_row(train_videos: int = 10_024, videos: int = 4_926, exits: int = 17, classes: int = 200) -> Row:
    """Both early-exit curves, of ActivityNet's size by default, against the published way of computing their mAPs."""
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(train_videos, exits, classes, generator=generator)
    logits, labels = torch.randn(videos, exits, classes, generator=generator), random_labels(videos, classes)
    costs = torch.linspace(5, 27, exits)
    curves = {name: exit_curve(train, logits, labels, costs, name, "map") for name in CRITERIA}
    rows = torch.arange(videos)

    def published() -> Tensor:
        metrics = []
        for name, points in curves.items():
            for point in points:
                left = exit_decisions(logits, point.thresholds, name)
                for exit_numbers in (left, left[torch.randperm(videos, generator=generator)]):  # and at random exits
                    metrics.append(published_average_precision(logits[rows, exit_numbers], labels).mean())
        return torch.stack(metrics[::2])

    def ours() -> Tensor:
        both = [exit_curve(train, logits, labels, costs, name, "map") for name in CRITERIA]
        return torch.tensor([point.metric for points in both for point in points])

    what = f"early-exit curves, {train_videos} + {videos} videos, s"
    return _row_of(what, published, ours, "percent points of mAP", rounds=1)


def _row_of(what: str, published: Callable[[], Tensor], ours: Callable[[], Tensor], unit: str, rounds: int) -> Row:
    """The two ways of computing figures in turns, and how far these are apart."""
    seconds, found = take_turns({"yardstick": published, "ours": ours}, rounds, CPU)
    apart = float((found["yardstick"] - found["ours"]).abs().max())
    there, here = seconds["yardstick"], seconds["ours"]
    return Row(what, min(there), min(here), ratio(there, here), f"{apart:.1e} {unit}")


def gather(processes: int, videos: int, classes: int) -> tuple[float, float]:
    """Seconds of `ops.distributed.gather_rows`, and what it took of the main process's memory, in GB."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    started = [
        context.Process(target=_gather, args=(rank, processes, port, videos, classes, sender))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        for process in started:
            process.join()


def _gather(rank: int, processes: int, port: int, videos: int, classes: int, sender: Connection) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    with distributed.process_group():
        indices = torch.arange(rank, videos, processes)
        rows = torch.randn(len(indices), classes)
        distributed.gather_objects(None)  # all are there
        before, begun = peak_of_this_process(), time.perf_counter()
        result = distributed.gather_rows(rows, indices, videos)
        if result is not None:
            sender.send((time.perf_counter() - begun, (peak_of_this_process() - before) / 1e9))


def evaluation_of(size: int, name: str) -> Work:
    """Evaluation of our network where the size called `name` is other than published."""
    return Contestant("ours", argparse.Namespace(**_sizes(name, size)), "float32").evaluate


def training_of(size: int, name: str) -> Work:
    """A training step, likewise, on small frames: large ones for many videos would need more memory than many have."""
    sizes = _sizes(name, size) | {"input_size": 128, "patch_size": 64}
    return step_of("ours", argparse.Namespace(**sizes), "float32")


def _sizes(name: str, size: int) -> dict[str, int | str]:
    if name == "num_segments":  # glanced at and looked at closely, in the published proportion
        return SIZES | {"num_segments": size, "num_glance_segments": size // 3, "num_focus_segments": size // 3}
    return SIZES | {name: size}


def metrics_tables(rounds: int) -> None:
    measure("metrics over videos, 400 classes", [12_500, 25_000, 50_000, 100_000], metrics_over_videos, rounds, 400)
    measure("metrics over classes, 25000 videos", [100, 200, 400, 800], metrics_over_classes, rounds, 25_000)
    for row in (metrics_row(rounds=rounds), exit_curves_row()):
        print(f"\n{row.what}: as published {row.yardstick:.2f}, ours {row.ours:.2f}, apart by at most {row.difference}")


def gather_tables(rounds: int) -> None:
    for title, cases in {
        "gathering over processes, 50000 x 400": [(processes, 50_000) for processes in (1, 2, 4)],
        "gathering over videos, 2 processes, x 400": [(2, videos) for videos in (25_000, 50_000, 100_000)],
    }.items():
        found = [min(gather(*case, 400) for _ in range(rounds)) for case in cases]
        sizes = [case[0] if cases[0][0] != cases[-1][0] else case[1] for case in cases]
        show_growth(title, sizes, *zip(*found, strict=True))
        results = [videos * 400 * 4 / 1e9 for _, videos in cases]
        print(f"{'the result itself, GB':>44}{'':>9}" + " ".join(f"{gigabytes:.3f}" for gigabytes in results))


def network_tables(rounds: int) -> None:
    for (what, make), (name, sizes) in itertools.product(
        {"evaluation": evaluation_of, "training step": training_of}.items(),
        {"batch_size": (1, 2, 4), "num_segments": (12, 24, 48), "classes": (100, 200, 400, 800)}.items(),
    ):
        measure(f"{what} over {name}", sizes, make, rounds, name)


TABLES = {"metrics": metrics_tables, "gather": gather_tables, "network": network_tables}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default: all")
    parser.add_argument("--rounds", type=whole(1), default=1, help="turns that each size gets (default: %(default)s)")
    arguments = parser.parse_args(argv)
    print(f"{torch.get_num_threads()} thread(s), PyTorch {torch.__version__}, {arguments.rounds} round(s)")
    for name in arguments.tables:
        TABLES[name](arguments.rounds)
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
