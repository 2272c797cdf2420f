"""How long threads wait for work before they sleep. To be said before torch is loaded, so nothing here imports it."""

import os


def wait_briefly() -> None:
    """Let PyTorch's threads on the CPU look for more work for microseconds, then give their core away.

    As PyTorch has it they look for milliseconds, which makes a step many times slower where other programs want the
    cores; where they sleep at once, waking them makes a single patch take a third longer (benchmarks/README.md).
    What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # sleep at once: all that Intel's OpenMP can be told
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # and GNU's, after so many looks
