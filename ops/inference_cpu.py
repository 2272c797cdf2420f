"""Groups of images in parallel, each computed on one core.

A convolution that is spread over all cores ends when the slowest core is done, and the next one wakes them all again.
Where each core computes images of its own, no core waits for another (figures: benchmarks/README.md).
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def computes_in_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, without which it is no faster than float32."""
    return torch.cpu._is_avx512_bf16_supported()


def side_by_side(work: Callable[[Tensor], Tensor], groups: Iterable[Tensor]) -> list[Tensor]:
    """`work` of each group, in order; as many at once as PyTorch has threads, each of which computes on one core.

    Gradients are recorded or not as they are where this is called. Raises what `work` raises.
    """
    records, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def alone(group: Tensor) -> Tensor:  # these settings belong to a thread
        with torch.inference_mode(inference), torch.set_grad_enabled(records):
            return work(group)

    return list(_threads(torch.get_num_threads(), os.getpid()).map(alone, groups))


@functools.lru_cache(maxsize=1)
def _threads(number: int, process: int) -> ThreadPoolExecutor:
    """That many threads which compute on one core each. process: a forked one has none of its parent's threads."""
    pool = ThreadPoolExecutor(number, "side_by_side", initializer=_compute_on_one_core)
    started = threading.Barrier(number + 1)
    for _ in range(number):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(number)  # threads to come begin with what was last set anywhere
    return pool


def _compute_on_one_core() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first time a thread asks, it takes what was last set anywhere: now that is 1
