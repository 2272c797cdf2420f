"""Numbers of processes follow from the cores that a scheduler or a container lets this process have."""

import os

import pytest

from ops.utils.cores import available_cores
from opts import build_parser, parse_options


@pytest.mark.parametrize(
    ("cores", "processes", "expected"),
    [(1, None, 1), (2, None, 2), (64, None, 16), (64, "8", 8), (128, "4", 16), (6, "4", 1), (2, "8", 1), (4, "?", 4)],
)
def test_the_default_of_workers_follows_from_cores_and_processes(monkeypatch, cores, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    parser = build_parser("training")
    options = parse_options(parser, ["--dataset", "actnet", "--data_dir", "data"])
    assert options.workers == expected
    assert f"by cores and processes: {expected})" in " ".join(parser.format_help().split())


def test_cores_are_counted_where_no_affinity_is_known(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores() == 3
