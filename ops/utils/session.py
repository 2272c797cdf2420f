"""What every part of a run is given: its options, device, log and stop request."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ops.utils import distributed, faults
from ops.utils.errors import EXIT_DONE
from ops.utils.logger import RunLogger
from ops.utils.signals import Stopped, StopRequest


@dataclass
class Run:
    """One call of an entry script, on one of its processes."""

    options: argparse.Namespace
    device: torch.device
    log: RunLogger
    stop: StopRequest
    exit_code: int = EXIT_DONE


@contextlib.contextmanager
def start(options: argparse.Namespace) -> Iterator[Run]:
    """Join the launcher's other processes, if there are any, for the time of the block.

    Nothing is written before `run.log.open`. A stop by a signal ends the block in good order and sets `exit_code`;
    failures of the machine become a UserError that says what to do.
    """
    with distributed.process_group(options.time_limit) as device, StopRequest() as stop:
        log = RunLogger(run_folder(options), distributed.is_main_process())
        run = Run(options, device, log, stop)
        try:
            with faults.explained(options, log.folder), _compilers_stop_too(stop):
                yield run
        except Stopped as stopped:
            log.line(str(stopped))
            run.exit_code = stopped.exit_code
        finally:
            log.close()


@contextlib.contextmanager
def _compilers_stop_too(stop: StopRequest) -> Iterator[None]:
    """A signal to the whole process group also ends the compilers that torch.compile has started: what PyTorch then
    raises within the block becomes Stopped."""
    try:
        yield
    except Exception as error:
        if stop.signal_number and _is_of_compiling(error):
            raise Stopped(stop.signal_number) from error
        raise


def _is_of_compiling(error: BaseException | None) -> bool:
    """Whether the error, or what it was raised from, says that torch.compile has failed."""
    errors = sys.modules.get("torch._dynamo.exc")  # loaded by the first compilation only; it takes seconds
    while error is not None and errors is not None:
        if isinstance(error, errors.TorchDynamoException):
            return True
        error = error.__cause__
    return False


def run_folder(options: argparse.Namespace) -> Path:
    """Where this run's logs and checkpoints go; the published name."""
    name = f"UniAdaFocus_{options.dataset}_{options.glance_arch}_segment{options.num_segments}_e{options.epochs}"
    return Path(options.root_log) / name
