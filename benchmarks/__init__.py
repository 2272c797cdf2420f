"""Benchmarks, one script for each claim: `python -m benchmarks.baseline`; `make bench` runs them all, small."""

from ops.utils.errors import wait_briefly

wait_briefly()  # before torch is loaded
