"""The benchmark of loading runs and says what it promises."""

import re

import pytest

from benchmarks import loading
from tests.conftest import call, the_error


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_clips_are_compared_with_the_published_pipeline(mode, monkeypatch, capsys):
    monkeypatch.setattr(loading, "SEGMENTS", 12)
    monkeypatch.setattr(loading, "BATCH_SIZE", 1)
    sizes = ["--videos", 1, "--rounds", 1, "--batches", 4, "--quality", 30]
    assert call(loading.main, "--tables", "clips", "--modes", mode, *sizes) == 0
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^    (published|ours|decode only) +[\d.]+ +([\d.]+) +[\d.]+$", printed, re.MULTILINE))
    assert rows.keys() == {"published", "ours", "decode only"} and rows["published"] == "1.00"
    assert printed.count("    ours ") == 2  # alone, and through a DataLoader
    assert re.search("published, ms: decode .*, crop, resize .*, stack .*, to float32 .*, normalise ", printed)
    assert int(re.search(r"at most (\d+) grey level", printed)[1]) <= 1


def test_lists_are_read_and_checked(capsys):
    assert call(loading.main, "--tables", "lists", "--listed", 1000, "--checked", 30) == 0
    printed = capsys.readouterr().out
    assert "a list of 1000 videos: read in " in printed
    assert re.search(r"the check of 30 videos: [\d.]+ s, 0 problems", printed)


def test_an_odd_number_of_batches_is_refused(capsys):
    assert call(loading.main, "--batches", 5) == 2
    assert "--batches must be an even number" in the_error(capsys.readouterr().err)
