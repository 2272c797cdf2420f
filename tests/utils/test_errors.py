"""ops/utils/errors.py: what a user sees of a run that ends otherwise than planned."""

import os
import subprocess
import sys

import pytest

from ops.utils.errors import EXIT_WITH_FAILURES, run_entry, wait_briefly
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


def test_threads_are_told_to_wait_briefly_before_main_loads_torch(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    seen = []
    with pytest.raises(SystemExit):
        run_entry(lambda: seen.append(dict(os.environ)))
    assert seen == [{"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}]


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7" and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
