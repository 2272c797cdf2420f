"""What benchmarks have in common: turns in one process, memory at the peak, differences of results, and the table.

A benchmark is a function that takes the options and gives a `Row` for each claim; `run` is the `main` of its script.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch
from torch import Tensor

from ops.utils.errors import EXIT_DONE, UserError
from opts import OneLineParser, whole

NAMES = ("yardstick", "ours")
SIZES = {
    "num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224, "patch_size": 128,
    "classes": 200,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A claim: how many times as good ours is as the yardstick, measured in turns, with the outputs compared."""

    what: str  # with its unit
    yardstick: float | None  # None where it cannot be measured here
    ours: float
    ratio: float | None
    remark: str = ""  # the largest difference of the outputs, and what else there is to say


def run(
    description: str,
    measure: Callable[[argparse.Namespace], Iterable[Row]],
    options: Mapping[str, Any],
    arguments: Sequence[str] | None = None,
    *,
    choices: Mapping[str, Sequence[str]] = {},
) -> int:
    """Read the command line, measure and print the table; the exit code.

    options: names and defaults, whole numbers being 1 or more; a list takes several values, of those in `choices` where
    that has the option.
    """
    parser = OneLineParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in ({"device": "cpu", "threads": torch.get_num_threads()} | dict(options)).items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        parser.add_argument(
            f"--{name}",
            default=default,
            type=whole(1) if kind is int else kind,
            nargs="+" if several else None,
            choices=choices.get(name),
            help=f"default: {' '.join(map(str, default)) if several else default}",
        )
    given = parser.parse_args(arguments)
    chip = "CPU"
    if given.device.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UserError("PyTorch sees no GPU here; --device cpu with tiny sizes only tries the script out")
        chip = f"{torch.cuda.get_device_name(given.device)}, CUDA {torch.version.cuda}"
    torch.set_num_threads(given.threads)
    print(f"{chip}, {given.threads} thread(s), PyTorch {torch.__version__}, {given.rounds} round(s)")
    show(measure(given))
    return EXIT_DONE


def show(rows: Iterable[Row]) -> None:
    """Print the table, each row as soon as it is there."""

    def line(what: str, yardstick: str, ours: str, ratio: str, remark: str) -> str:
        return f"{what:<58}{yardstick:>10}{ours:>9}{ratio:>7}  {remark}".rstrip()

    print(line("what", *NAMES, "ratio", "largest difference of outputs"), flush=True)
    for row in rows:
        print(line(row.what, *map(_number, (row.yardstick, row.ours, row.ratio)), row.remark), flush=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def row_of(
    what: str, seconds: Mapping[str, Sequence[float]], remark: str = "", items: int | None = None, ours: str = "ours"
) -> Row:
    """The row of `take_turns`, with medians. items: done in those seconds; then it tells how many in one second.

    ours: the name of our way; the other is the yardstick, if there is one.
    """
    medians = {name: median(taken) for name, taken in seconds.items()}
    figures = {name: items / taken if items else taken for name, taken in medians.items()}
    if "yardstick" not in seconds:
        return Row(what, None, figures[ours], None, remark)
    return Row(what, figures["yardstick"], figures[ours], ratio(seconds["yardstick"], seconds[ours]), remark)


def ratio(slower: Sequence[float], quicker: Sequence[float]) -> float:
    """How many times as long the first take: the median of the ratios round by round."""
    return median(there / here for there, here in zip(slower, quicker, strict=True))


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu", warm_up: bool = True
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way in each round, after one that does not count, and what each gave in that one.

    warm_up: False leaves that one out, where each way was called before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    first = {name: work() for name, work in ways.items()} if warm_up else {}
    names = list(ways)
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            _wait_for(device)
            started = time.perf_counter()
            ways[name]()
            _wait_for(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds, first


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core, and its libraries on one thread each, within the block."""
    with ExitStack() as afterwards:
        afterwards.callback(torch.set_num_threads, torch.get_num_threads())
        afterwards.callback(cv2.setNumThreads, cv2.getNumThreads())
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        if hasattr(os, "sched_setaffinity"):
            cores = os.sched_getaffinity(0)
            afterwards.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, {min(cores)})
        yield


def largest_difference(values: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> str:
    """The largest of ||a - b|| / ||a|| over the pairs, and in brackets the name of that pair."""
    differences = []
    for name, value in values.items():
        a, b = value.detach().double(), others[name].detach().double()
        differences.append((float((a - b).norm() / a.norm().clamp_min(1e-12)), name))
    return "{:.1e} ({})".format(*max(differences))


def peak_memory(make: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """GB at the peak of `make(*arguments)()`, what `make` makes included, in a process of its own.

    Beyond what that process holds before, of its own memory, or of the GPU's where it uses one. `make` and the
    arguments are pickled. Raises UserError when the process dies.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(_measure_memory, torch.get_num_threads(), make, arguments).result()
        except BrokenProcessPool:
            raise UserError("the process whose memory is measured has died: is there enough of it?") from None


def _measure_memory(threads: int, make: Callable, arguments: Sequence[object]) -> float:
    torch.set_num_threads(threads)
    before = _peak_of_this_process()
    make(*arguments)()
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated()
    return (on_gpu or _peak_of_this_process() - before) / 1e9


def _peak_of_this_process() -> int:
    """Bytes. Linux knows better than getrusage, where a new process begins with its parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(peak.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
