"""Leaving in good order when the scheduler (SIGTERM), the user (Ctrl-C) or a terminal that closes (SIGHUP) says so."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from ops.utils import distributed
from ops.utils.errors import tell

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAME_SECONDS = 2.0  # in which a second signal is the first again: torchrun passes on what Slurm has sent to all


class Stopped(Exception):
    """Raised where a signal ends the work at once; `exit_code` is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


def handled_by(handler: Callable[[int, FrameType | None], None]) -> dict[int, object]:
    """Have the signals handled; returns the handlers before. SIGHUP stays ignored where it is: under `nohup`."""
    numbers = [number for number in SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    return {number: signal.signal(number, handler) for number in numbers}


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """A signal ends the block by an exception, so that what is temporary is removed; exit code 143, 130 or 129."""
    before = handled_by(lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopRequest:
    """Within its `with` block the first signal is remembered, and a later one ends the process at once."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self._before = handled_by(self._received)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """The signal that any process has received, 0 for none: the same answer on all of them, at the same step."""
        largest = torch.tensor(self.signal_number)
        if distributed.world_size() > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def has_led_to(self, error: BaseException | None) -> bool:
        """Whether a signal has come, and the error, or what it was raised from, says that torch.compile has failed.

        A signal to the whole process group ends the compilers, too.
        """
        errors = sys.modules.get("torch._dynamo.exc")  # loaded by the first compilation only; it takes seconds
        while self.signal_number and errors is not None and error is not None:
            if isinstance(error, errors.TorchDynamoException):
                return True
            error = error.__cause__
        return False

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            if time.monotonic() - self._since > SAME_SECONDS:
                os._exit(128 + number)
            return
        self.signal_number, self._since = number, time.monotonic()
        if distributed.is_main_process():
            name = signal.Signals(number).name
            tell(f"{name}: finishing this step, saving, leaving; a second one leaves at once", sys.stderr)
