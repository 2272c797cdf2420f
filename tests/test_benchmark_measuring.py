"""benchmarks/measuring.py. The process whose memory is measured imports this file, so it imports little."""

import torch

from benchmarks.measuring import Row, largest_difference, peak_memory, row_of, show


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
    assert largest_difference(one, other) == "1.0e-01 (a)"


def test_the_table_has_a_line_for_each_claim(capsys):
    show([Row("loading, videos/s", 4.0, 12.0, 3.0, "1 grey level"), Row("other", None, 250.4, None)])
    heads, loading, other = capsys.readouterr().out.splitlines()
    assert heads.split() == ["what", "yardstick", "ours", "ratio", "largest", "difference", "of", "outputs"]
    assert loading.split() == ["loading,", "videos/s", "4.00", "12.00", "3.00", "1", "grey", "level"]
    assert other.split() == ["other", "-", "250", "-"]


def test_the_ratio_is_that_of_the_rounds_and_speeds_are_of_medians():
    seconds = {"yardstick": [2.0, 4.0, 9.0], "ours": [1.0, 4.0, 3.0]}
    assert row_of("s", seconds) == Row("s", 4.0, 3.0, 2.0)
    assert row_of("1/s", seconds, items=12) == Row("1/s", 3.0, 4.0, 2.0)
    assert row_of("s", {"fast": [5.0]}, ours="fast") == Row("s", None, 5.0, None)
