"""Jobs spread over processes, with progress, so that a job that kills its process costs one job and no more.

`concurrent.futures` gives up all jobs when a process dies, as a decoder may on a damaged file, and leaves its processes
behind when the parent is killed. Here each process has a pipe of its own: the parent knows which job died with it, and
a process whose parent is gone ends.
"""

import multiprocessing
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm

_PROGRESS_SECONDS = 0.2  # between two messages about the same job
_FAREWELL_SECONDS = 10.0  # that a process gets to tidy up before it is killed


class WorkerDied(str):
    """The result of a job whose process ended in the middle of it; says how."""


def progress_bar(total: int, unit: str, description: str = "", shown: bool = True) -> tqdm:
    """A bar on standard error; where that is no terminal, a line now and then."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        total=total, unit=unit, desc=description or None, disable=not (shown and total), leave=False,
        mininterval=0.5 if on_terminal else 30.0, delay=0 if on_terminal else 30.0, dynamic_ncols=on_terminal,
    )  # fmt: skip


def run_jobs(
    work: Callable[[Any, Callable[[int], None]], Any],
    jobs: Sequence[Any],
    workers: int,
    on_progress: Callable[[int], None],
    initialise: Callable[[], None] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield (job, `work(job, report)`) as jobs are done, in this process if `workers` is 1.

    `work` and `initialise`, which each new process calls first, must be importable by name. What `work` reports
    arrives at `on_progress`. When the caller leaves early, as on Ctrl-C, the processes are asked to stop (`SystemExit`
    is raised in `work`) and are waited for.
    """
    if workers <= 1:
        for job in jobs:
            yield job, work(job, on_progress)
        return
    waiting = deque(jobs)
    busy: dict[Connection, tuple[multiprocessing.Process, Any]] = {}
    try:
        for _ in range(min(workers, len(waiting))):
            _start_worker(work, initialise, waiting.popleft(), busy)
        while busy:
            for connection in wait(list(busy)):
                process, job = busy[connection]
                try:
                    finished, value = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    connection.close()
                    process.join()
                    if waiting:
                        _start_worker(work, initialise, waiting.popleft(), busy)
                    code = process.exitcode
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    yield job, WorkerDied(f"its process ended with {how}")
                    continue
                if not finished:
                    on_progress(value)
                    continue
                if waiting:
                    busy[connection] = process, waiting.popleft()
                    _send(connection, busy[connection][1])
                else:
                    del busy[connection]
                    connection.close()
                yield job, value
    finally:
        for process, _ in busy.values():
            process.terminate()
        for process, _ in busy.values():
            process.join(_FAREWELL_SECONDS)
            if process.is_alive():
                process.kill()


def _start_worker(work: Callable, initialise: Callable | None, job: Any, busy: dict) -> None:
    context = multiprocessing.get_context("spawn")  # forking a process with threads, as OpenCV's, can deadlock
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, initialise), daemon=True)
    # Ctrl-C reaches the whole group, also those that are still importing; the parent, which gets it late, decides.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    busy[here] = process, job
    _send(here, job)


def _send(connection: Connection, job: Any) -> None:
    with suppress(OSError):  # where the process is gone, the next recv() tells
        connection.send(job)


def _serve(connection: Connection, work: Callable, initialise: Callable | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave_once)
    if initialise is not None:
        initialise()
    pending, last = 0, time.monotonic()

    def tell(finished: bool, value: Any) -> None:
        try:
            connection.send((finished, value))
        except OSError:  # the parent is gone
            sys.exit(1)

    def report(amount: int) -> None:
        nonlocal pending, last
        pending += amount
        if time.monotonic() - last >= _PROGRESS_SECONDS:
            tell(False, pending)
            pending, last = 0, time.monotonic()

    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):  # no more jobs, or no parent
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # while Python ends, it would only complain of SystemExit
            return
        result = work(job, report)
        tell(False, pending)
        tell(True, result)
        pending = 0


def _leave_once(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the tidying up
    sys.exit(143)
