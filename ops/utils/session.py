"""What every part of a run is given: its options, device, log and stop request."""

import argparse
import contextlib
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
            with faults.explained(options, log.folder), _as_a_stop(stop):
                yield run
        except Stopped as stopped:
            log.line(str(stopped))
            run.exit_code = stopped.exit_code
        finally:
            log.close()


@contextlib.contextmanager
def _as_a_stop(stop: StopRequest) -> Iterator[None]:
    """An error within the block that a signal has led to becomes Stopped."""
    try:
        yield
    except Exception as error:
        if stop.has_led_to(error):
            raise Stopped(stop.signal_number) from error
        raise


def run_folder(options: argparse.Namespace) -> Path:
    """Where this run's logs and checkpoints go; the published name."""
    name = f"UniAdaFocus_{options.dataset}_{options.glance_arch}_segment{options.num_segments}_e{options.epochs}"
    return Path(options.root_log) / name
