"""What benchmarks measure with: turns in one process, differences of results, and memory at the peak of some work."""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ops.errors import UserError


def take_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, warm_up: bool = True
) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Seconds of each way in each round, after one that does not count, and what each gave in that one.

    warm_up: False leaves that one out, where each way was called before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    first = {name: work() for name, work in ways.items()} if warm_up else {}
    names = list(ways)
    for turn in range(rounds):
        for name in names if turn % 2 else reversed(names):
            wait_for(device)
            started = time.perf_counter()
            ways[name]()
            wait_for(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds, first


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(slower: Sequence[float], quicker: Sequence[float]) -> float:
    """How many times as long the first take: the median of the ratios round by round."""
    return median(there / here for there, here in zip(slower, quicker, strict=True))


def largest_difference(values: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> tuple[float, str]:
    """The largest of ||a - b|| / ||a|| over the pairs, and the name of that pair."""
    differences = []
    for name, value in values.items():
        a, b = value.detach().double(), others[name].detach().double()
        differences.append((float((a - b).norm() / a.norm().clamp_min(1e-12)), name))
    return max(differences)


def peak_memory(make: Callable[..., Callable[[], object]], *arguments: object) -> float:
    """GB at the peak of `make(*arguments)()`, what `make` makes included, in a process of its own.

    Beyond what that process holds before, of its own memory, or of the GPU's where it uses one. `make` and the
    arguments are pickled. Raises UserError when the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(sender, torch.get_num_threads(), make, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise UserError("the process whose memory is measured has died: is there enough of it?") from None
    finally:
        process.join()


def _measure_memory(sender: Connection, threads: int, make: Callable, arguments: Sequence[object]) -> None:
    torch.set_num_threads(threads)
    before = peak_of_this_process()
    make(*arguments)()
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated()
    sender.send((on_gpu or peak_of_this_process() - before) / 1e9)


def peak_of_this_process() -> int:
    """Bytes. Linux knows better than getrusage, where a new process begins with its parent's peak."""
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(peak.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
