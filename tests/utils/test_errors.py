"""ops/utils/errors.py: what a user sees of a run that ends otherwise than planned."""

import subprocess
import sys

from ops.utils.errors import EXIT_WITH_FAILURES
from tests.conftest import ROOT, the_error

MANY_LINES = """
from ops.utils.errors import run_entry
def main():
    for number in range(100_000):
        print("line", number)
run_entry(main)
"""


def test_a_reader_that_goes_away_is_one_line_and_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", MANY_LINES], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()  # as `head -1` does
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == EXIT_WITH_FAILURES
    assert "the output" in the_error(errors)
