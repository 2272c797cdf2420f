"""The process group: who we are, and exchanging results. Everything works on one process without a launcher too.

Ranks and addresses come from the environment that `torchrun` and `torch.distributed.launch` set, several nodes
included. CPU tensors travel over Gloo, GPU tensors over NCCL.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ops.utils.errors import UserError, first_line, is_launched

TIME_LIMIT = 30.0  # minutes to wait for another process
PATIENCE = 15.0  # seconds in which a process that is still there answers, after a failed exchange
SECONDS_TO_LEAVE = 5.0  # the process group, after a failure
SECONDS_TO_SETTLE = 0.1  # in which Gloo's threads let go of the last exchange
MEETING_PLACE = "env://"  # where processes find each other: at the address that the launcher says


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes take part, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is the process that prints, logs and saves."""
    return rank() == 0


@contextlib.contextmanager
def process_group(time_limit: float = TIME_LIMIT) -> Iterator[torch.device]:
    """Join the launcher's process group, if there is one, for the time of the block; yields this process's device.

    time_limit: minutes to wait for another process before giving up.

    Raises UserError where a machine has GPUs but fewer than it has processes, and where the processes do not meet.
    """
    said_by_launcher = os.environ if is_launched() else {}
    local_rank = int(said_by_launcher.get("LOCAL_RANK", 0))
    local_world_size = int(said_by_launcher.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        if local_world_size > torch.cuda.device_count():
            raise UserError(
                f"{local_world_size} processes on this machine but only {torch.cuda.device_count()} GPUs: "
                "start one process per GPU (--nproc_per_node), or make more GPUs visible (CUDA_VISIBLE_DEVICES)"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not is_launched():
        yield device
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    _join(backend, timedelta(minutes=time_limit))
    try:
        yield device
    except BaseException:  # here NCCL waits for the others, who may never come: the reason must not wait with it
        leaving = threading.Thread(target=_leave, daemon=True)
        leaving.start()
        leaving.join(SECONDS_TO_LEAVE)
        raise
    _leave()


def _leave() -> None:
    """Leave the process group.

    In PyTorch 2.6 to 2.11 at least, a thread of Gloo's needs Python's lock to free the tensors of the last exchange,
    and leaving waits for that thread while it holds the lock: a run right after an exchange would hang at its end.
    """
    time.sleep(SECONDS_TO_SETTLE)
    dist.destroy_process_group()


def _join(backend: str, time_limit: timedelta) -> None:
    """Join under keys of this attempt: where a launcher starts processes again, it may keep the store in which those
    of the attempt before left their addresses.

    Exchanges of CPU tensors, one in every step, give up after the time limit and say whom they missed. Those of GPU
    tensors have twice as long: where they give up, NCCL's watchdog ends the process before we can report anything.
    """
    try:
        store, rank, world_size = next(dist.rendezvous(MEETING_PLACE, timeout=time_limit))
        attempt = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=world_size, timeout=time_limit)
    except (ValueError, RuntimeError) as error:  # DistError is one
        raise UserError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} does not meet the others "
            f"({first_line(error)[:160]}): start them with torchrun, at a --master_port that is free; or, for one "
            "process, without RANK and WORLD_SIZE in the environment"
        ) from error
    if "nccl" in backend:
        nccl = dist.group.WORLD._get_backend(torch.device("cuda"))
        if hasattr(nccl, "_set_default_timeout"):  # not with TORCH_DISTRIBUTED_DEBUG=DETAIL
            nccl._set_default_timeout(2 * time_limit)


def missing_ranks() -> list[int]:
    """After a failed exchange: the processes that do not answer within `PATIENCE` seconds. All survivors call this."""
    store = dist.distributed_c10d._get_default_store()
    waited_for = [other for other in range(world_size()) if other != rank()]
    try:
        store.set(f"alive/{rank()}", "yes")
        deadline = time.monotonic() + PATIENCE
        while waited_for and time.monotonic() < deadline:
            waited_for = [other for other in waited_for if not store.check([f"alive/{other}"])]
            time.sleep(0.1)
    except (RuntimeError, dist.DistError):  # the store is gone, and with it the process that kept it
        return [0] if rank() else []
    return waited_for


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Run the block on every process; a UserError of any of them is raised in all, and said by the first."""
    error: UserError | None = None
    try:
        yield
    except UserError as caught:
        error = caught
    messages = gather_objects(None if error is None else str(error))
    if error is None and not any(messages):
        return
    source = next(rank for rank, message in enumerate(messages) if message is not None)
    raise UserError(messages[source], silent=rank() != source) from error


@contextlib.contextmanager
def main_process_first() -> Iterator[None]:
    """The main process runs the block before the others do, so that they find what it made (files, caches).

    A UserError of the main process is raised in all of them, so that none is left waiting.
    """
    if not is_main_process():
        message = broadcast_object(None)
        if message is not None:
            raise UserError(message, silent=True)
        yield
        return
    try:
        yield
    except UserError as error:
        broadcast_object(str(error))
        raise
    broadcast_object(None)


def broadcast_object(value: object) -> object:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def gather_objects(value: object) -> list[object]:
    """Every process's value, in order of rank, on every process. For small things."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_processes(values: Tensor) -> Tensor:
    """The element-wise sum over all processes, in place; on one process the tensor stays as it is."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def gather_rows(rows: Tensor, indices: Tensor, total: int) -> Tensor | None:
    """Put every process's rows at their indices in one CPU tensor [total, ...] on the main process; None elsewhere.

    rows: [n, ...]; indices: int64 [n]. n may differ between processes. The main process receives from one process
    after the other, so that it never holds more than the result and one share.
    """
    rows, indices = rows.cpu().contiguous(), indices.cpu().contiguous()
    if not is_main_process():
        dist.send(torch.tensor(len(rows)), dst=0)
        dist.send(indices, dst=0)
        dist.send(rows, dst=0)
        return None
    result = rows.new_empty(total, *rows.shape[1:])
    result[indices] = rows
    for source in range(1, world_size()):
        count = torch.empty((), dtype=torch.int64)
        dist.recv(count, src=source)
        indices = torch.empty(int(count), dtype=torch.int64)
        rows = result.new_empty(int(count), *result.shape[1:])
        dist.recv(indices, src=source)
        dist.recv(rows, src=source)
        result[indices] = rows
    return result


def share_buffers(model: nn.Module) -> None:
    """Give every process the main process's buffers (running statistics), so that all evaluate the same network."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
