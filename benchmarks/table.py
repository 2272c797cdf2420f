"""All benchmarks, small, in one table: what `make bench` runs, in a few minutes on two cores.

    python -m benchmarks.table
    python -m benchmarks.table --only baseline metrics --rounds 5 --batch_size 4

README.md in this folder tells what they measure. Where other programs run too, times and ratios of a few rounds are
rough.
"""

import argparse
from collections.abc import Iterator
from functools import partial

from benchmarks import baseline, early_exit, extraction, loading, metrics
from benchmarks.measuring import SIZES, Row, run
from ops.utils.errors import run_entry

# Each benchmark with what is smaller here than where it runs alone.
PARTS = {
    "extraction": (extraction, {"frames": 150, "quality": [18]}),
    "loading": (loading, {"videos": 4, "pairs": 1, "quality": [30], "listed": 100_000, "checked": 2_000}),
    "baseline": (baseline, {"precision": ["float32"]}),
    "early_exit": (early_exit, {"videos": 4, "batch_size": 1, "p": [10]}),
    "metrics": (metrics, {"rounds": 1, "classes": metrics.OPTIONS["classes"]}),
}
OPTIONS = SIZES | {"batch_size": 2, "rounds": 3, "only": list(PARTS)}


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """The rows of one benchmark after the other."""
    for name in arguments.only:
        benchmark, small = PARTS[name]
        options = benchmark.OPTIONS | vars(arguments) | small
        yield from benchmark.measure(argparse.Namespace(**options))


main = partial(run, __doc__, measure, OPTIONS, choices={"only": list(PARTS)})


if __name__ == "__main__":
    run_entry(main)
