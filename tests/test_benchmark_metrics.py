"""benchmarks/metrics.py, and the table of all benchmarks."""

import re
import shutil

import pytest
import torch

from benchmarks import metrics, table
from benchmarks.metrics import published_average_precision, random_labels
from ops.metrics import mean_average_precision
from tests.shared import call, the_error

SIZES = {"videos": 60, "classes": 5, "train_videos": 40, "val_videos": 30, "exits": 3, "exit_classes": 4}


def test_the_published_way_gives_the_same_average_precision():
    logits, labels = torch.randn(60, 5), random_labels(60, 5)
    ours = mean_average_precision(logits, labels)[1]
    torch.testing.assert_close(published_average_precision(logits, labels), ours.float(), rtol=1e-4, atol=1e-4)


def test_map_and_the_early_exit_curves_are_those_of_the_published_way(capsys):
    assert call(metrics.main, *(text for name, value in SIZES.items() for text in (f"--{name}", value))) == 0
    *_, by_class, curves = capsys.readouterr().out.splitlines()
    for line, what in ((by_class, "mAP of 60 videos x 5 classes"), (curves, "early-exit curves, 40 + 30 videos")):
        assert line.startswith(what)
        assert float(re.search(r"(\S+) percent points", line)[1]) < 1e-4


def test_the_table_has_the_rows_of_every_benchmark_that_is_asked_for(monkeypatch, capsys):
    parts = {
        "metrics": (metrics, SIZES),
        "extraction": (table.PARTS["extraction"][0], {"frames": 8, "quality": [30], "clips": 1}),
    }
    monkeypatch.setattr(table, "PARTS", parts)
    assert call(table.main, "--only", "metrics", "extraction", "--rounds", 1) == 0
    _, heads, *rows = capsys.readouterr().out.splitlines()
    assert heads.split()[:4] == ["what", "yardstick", "ours", "ratio"]
    ways = ["ffmpeg", "opencv", "whole"] if shutil.which("ffmpeg") else ["opencv"]
    assert [re.split(r",? ", row)[:2] for row in rows[2:]] == [["extraction", way] for way in ways]
    assert re.search(r"quality 30, frames/s .* kB, PSNR \S+ dB", "\n".join(rows))


@pytest.mark.parametrize("change", [["--only", "scaling"], ["--rounds", 0]])
def test_wrong_options_are_one_line(change, capsys):
    assert call(table.main, *change) == 2
    assert f"argument {change[0]}" in the_error(capsys.readouterr().err)
