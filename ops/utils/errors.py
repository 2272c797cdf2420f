"""The one exception for a user's mistake, and the exit codes of every entry script.

0 done; 1 finished with failures that are listed, the program that reads the output has ended, or an unexpected error
with a traceback; 2 wrong use or input; 128 + its number stopped by a signal: 143 by SIGTERM, 130 by Ctrl-C, 129 by a
terminal that closes.
"""

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

EXIT_DONE = 0
EXIT_WITH_FAILURES = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Wrong use or wrong input: one line that says what is wrong, where, and what to do.

    silent: not printed, since another process of the same run prints it.
    """

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


def original_message(error: UserError) -> str:
    """The one line of an error that may come from a DataLoader worker, which puts its traceback around the message."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) < 2:
        return str(error)
    return lines[-1].partition("UserError: ")[2] or lines[-1]


def first_line(error: Exception) -> str:
    """The first line of an error's message that says something, else the error's kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def is_launched() -> bool:
    """Whether a launcher such as torchrun has started this process, as one of several."""
    return {"RANK", "WORLD_SIZE"} <= os.environ.keys()


def is_first_process() -> bool:
    """Whether this is the launcher's first process, the one that says what all of them would say alike."""
    return not is_launched() or os.environ["RANK"] == "0"


def tell(text: str, stream: TextIO) -> None:
    """Print a line to standard output or error, where work goes on though nobody may read that any more: the terminal
    or the program behind a pipe can have ended (with Ctrl-C, `tee` does)."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        discard(stream)
    except RuntimeError:  # in a signal's handler, where the signal came while another line was being printed
        return


def discard(stream: TextIO) -> None:
    """Let what a stream still holds, which Python would write when it ends, and all that follows go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_closed_streams() -> None:
    """Let standard input, output and error lead nowhere where they are closed (`>&-`, some services), so that no file
    takes their place and is written into by who means them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def wait_briefly() -> None:
    """Let PyTorch's threads on the CPU look for more work for microseconds, then give their core away.

    To be called before torch is loaded, so nothing here imports it. As PyTorch has it threads look for milliseconds,
    which makes a step many times slower where other programs want the cores; where they sleep at once, waking them
    makes a single patch take a third longer (benchmarks/README.md). What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # sleep at once: all that Intel's OpenMP can be told
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # and GNU's, after so many looks


def run_entry(main: Callable[[], int | None]) -> None:
    """Run an entry script's `main` and leave with its exit code; a `UserError` becomes one line and exit code 2."""
    wait_briefly()  # `main` loads torch, which reads it
    os.environ["MPLBACKEND"] = "agg"  # matplotlib refuses that of a notebook, and no window is opened here
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show must not end the program
            stream.reconfigure(errors="backslashreplace")
    for place, argument in enumerate(sys.argv):
        option, equals, value = argument.partition("=")  # shells leave the ~ of --option=~/folder alone
        if equals and option.startswith("--"):
            sys.argv[place] = f"{option}={os.path.expanduser(value)}"
    try:
        code = main()
    except UserError as error:
        if not error.silent:
            tell(f"error: {original_message(error)}", sys.stderr)
        code = EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        discard(sys.stdout)
        tell("error: the program that read the output has ended; redirect the output to a file to keep it", sys.stderr)
        code = EXIT_WITH_FAILURES
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and error.filename is None:
            discard(sys.stdout)
            tell(f"error: the output cannot be written: {error.strerror}", sys.stderr)
            sys.exit(EXIT_WRONG_INPUT)
        if error.errno not in (errno.ENAMETOOLONG, errno.EACCES):  # which even a look whether a file is there raises
            raise
        advice = "; check its permissions" if error.errno == errno.EACCES else ""
        tell(f"error: {error.strerror}: {error.filename}{advice}", sys.stderr)
        code = EXIT_WRONG_INPUT
    sys.exit(code or EXIT_DONE)
