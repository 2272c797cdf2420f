"""The benchmark of loading runs and says what it promises."""

import re

from benchmarks import loading
from tests.shared import call


def test_clips_are_compared_with_the_published_pipeline_and_lists_are_read(monkeypatch, capsys):
    monkeypatch.setattr(loading, "SEGMENTS", 12)
    monkeypatch.setattr(loading, "BATCH_SIZE", 1)
    sizes = ["--videos", 1, "--rounds", 1, "--pairs", 1, "--quality", 30, "--listed", 1000, "--checked", 30]
    assert call(loading.main, *sizes) == 0
    printed = capsys.readouterr().out
    for mode in ("training", "evaluation"):
        what = rf"loading, {mode}, quality 30"
        pixels = r"(\d) grey level\(s\) in [\d.]+ % of the values; [\d.]+ times as long as decoding"
        found = re.search(rf"^{what}, videos/s +[\d.]+ +[\d.]+ +[\d.]+  {pixels}$", printed, re.MULTILINE)
        assert int(found[1]) <= 1
        assert re.search(rf"^{what}, two workers, videos/s +[\d.]+ +[\d.]+ +[\d.]+$", printed, re.MULTILINE)
    assert re.search(r"^reading a list of 1000 videos, s +- +[\d.]+ +-$", printed, re.MULTILINE)
    assert re.search(r"^the check of 30 videos, s +- +[\d.]+ +-  0 problems$", printed, re.MULTILINE)
