"""benchmarks/measuring.py. The process whose memory is measured imports this file, so it imports little."""

import pytest
import torch

from benchmarks.measuring import largest_difference, peak_memory


def fill(gigabytes: float):
    """Work that needs so much memory."""
    return lambda: torch.ones(int(gigabytes * 1e9), dtype=torch.uint8)


def test_memory_is_that_of_the_work_and_not_of_this_process():
    held = torch.ones(600_000_000, dtype=torch.uint8)
    assert 0.3 <= peak_memory(fill, 0.3) < 0.5
    assert len(held) == 600_000_000


def test_differences_are_relative_and_name_the_place():
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.ones(2)}
    other = {"a": torch.tensor([3.0, 4.5]), "b": torch.ones(2)}
    assert largest_difference(one, other) == (pytest.approx(0.1), "a")
