"""What happened, in one line, when it is not the program's fault: memory, disks, workers, other processes."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from ops.utils import distributed
from ops.utils.errors import UserError, first_line

_SHARED_MEMORY = re.compile(r"shared memory|shm|bus error", re.IGNORECASE)
_WORKER_ENDED = re.compile(r"DataLoader worker[^)]*\) (is killed by signal: [^.]*|exited unexpectedly)")
_OUT_OF_GPU_MEMORY = re.compile(  # as CUDA, cuDNN, cuBLAS and NCCL say it, in errors of other kinds too
    r"CUDA out of memory|CUDA error: out of memory|Cuda failure (2 )?'out of memory'"
    r"|CU(DNN|BLAS|SPARSE|FFT)_STATUS_(INTERNAL_ERROR_.*)?ALLOC(ATION)?_FAILED",
    re.IGNORECASE,
)
_LOST_CONTACT = re.compile(
    "connection (closed|reset|refused)|timed? ?out|broken pipe|application timeout|watchdog|peer", re.IGNORECASE
)


@contextlib.contextmanager
def explained(options: argparse.Namespace, folder: Path) -> Iterator[None]:
    """Turn failures of the machine within the block into a UserError that says what to do; others pass unchanged.

    folder: of the run, where a training can go on from a checkpoint if there is one.
    """
    try:
        yield
    except (UserError, BrokenPipeError):  # the latter is of the output, see `run_entry`
        raise
    except (RuntimeError, OSError, MemoryError) as error:
        message = explanation(error, options)
        if message is None:
            raise
        if _trains(options) and os.path.exists(folder / "ckpt.pth.tar"):
            message += "; the last checkpoint stays, go on with --resume auto"
        raise UserError(message) from error


def _trains(options: argparse.Namespace) -> bool:
    return not options.evaluate and not hasattr(options, "calibrate_on")


def is_out_of_gpu_memory(error: Exception) -> bool:
    """Whether a GPU had no memory left, whichever library says so."""
    return isinstance(error, torch.OutOfMemoryError) or _OUT_OF_GPU_MEMORY.search(str(error)) is not None


def explanation(error: Exception, options: argparse.Namespace) -> str | None:
    """One line on a known kind of failure, or None."""
    text = str(error)
    if is_out_of_gpu_memory(error):
        share = options.batch_size // distributed.world_size()
        remedy = "a smaller --batch_size or --eval_precision float16"
        if _trains(options):
            remedy = (
                "--grad_accum 2 or more, --amp_dtype with main_semiAMP.py, or a smaller --batch_size (and --lr with it)"
            )
        return (
            f"out of GPU memory with --batch_size {options.batch_size} ({share} on this GPU), --patch_size "
            f"{options.patch_size}, --num_segments {options.num_segments}: give {remedy}"
        )
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "out of memory: lower --batch_size or --workers"
    ended = _WORKER_ENDED.search(text)
    if _SHARED_MEMORY.search(text) and (ended or "unable to" in text or "No space left" in text):
        return "no shared memory left for the workers' batches: enlarge /dev/shm (docker: --shm-size), or --workers 0"
    if ended:
        return (
            f"a worker that reads frames {ended.group(1)}: most likely out of memory; lower --workers or --batch_size"
        )
    if dist.is_initialized() and (isinstance(error, dist.DistBackendError) or _LOST_CONTACT.search(text)):
        missing = distributed.missing_ranks()
        if not missing:
            return f"process {distributed.rank()} lost another process ({first_line(error)[-160:]}); see its messages"
        lost = ", ".join(map(str, missing))
        return (
            f"process {distributed.rank()} lost process {lost}, which has ended or hangs: see the messages of that one"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror}: {error.filename or 'a file'}"
    return None
