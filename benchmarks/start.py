"""How long a user waits for the first sign of life.

    python benchmarks/start.py
    python benchmarks/start.py --rounds 5

Seconds until `main.py --help` has ended, and until `main.py --dataset toy` has printed its first training step, once
with the videos still to be made and once with them there. The quickest of the rounds counts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.rows import Row, table
from ops.errors import EXIT_DONE, UserError, run_entry
from opts import whole

ROOT = Path(__file__).resolve().parent.parent


def seconds_until(wanted: str, *options: str) -> float:
    """Seconds until `main.py` with these options prints a line that begins with `wanted`; it is stopped there.

    Raises UserError where it ends without.
    """
    began = time.perf_counter()
    command = [sys.executable, str(ROOT / "main.py"), *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if line.startswith(wanted):
                    return time.perf_counter() - began
        finally:
            process.kill()
    raise UserError(f"{' '.join(command)} ended without a line that begins with {wanted!r}: {''.join(lines[-1:])}")


def measure(rounds: int) -> list[Row]:
    """One row for each wait; there is nothing to compare with."""
    help_seconds, made, there = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, str(ROOT / "main.py"), "--help"], stdout=subprocess.DEVNULL, check=True)
        help_seconds.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
            for seconds in (made, there):
                log = f"{work}/log_{'there' if seconds is there else 'made'}"
                toy = ("--dataset", "toy", "--data_dir", f"{work}/toy", "--root_log", log)
                seconds.append(seconds_until("Epoch: [0][0/", *toy, "-p", "1"))
    waits = {
        "main.py --help, s": help_seconds,
        "first step on toy, videos to be made, s": made,
        "first step on toy, s": there,
    }
    return [Row(what, None, min(seconds), None, "") for what, seconds in waits.items()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=whole(1), default=3, help="default: %(default)s")
    print(table(measure(parser.parse_args(argv).rounds)))
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
