"""ops/utils/signals.py: which signals are heard."""

import os
import signal

from ops.utils.signals import StopRequest


def test_a_terminal_that_closes_does_not_stop_a_run_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.agreed() == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.agreed() == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
