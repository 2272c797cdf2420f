"""benchmarks/start.py finds the moment at which a line is printed."""

import pytest

from benchmarks.start import seconds_until
from ops.errors import UserError


def test_the_wait_ends_with_the_line():
    assert seconds_until("usage:", "--help") > 0


def test_a_run_that_never_prints_the_line_says_what_it_said_last():
    with pytest.raises(UserError, match=r"begins with 'Epoch'.*no_such_option"):
        seconds_until("Epoch", "--no_such_option")
