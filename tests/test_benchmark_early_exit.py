"""benchmarks/early_exit.py runs, and its models leave where they are told to."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import early_exit
from benchmarks.early_exit import joined, main, thresholds_for, videos_per_exit
from ops.early_exit.curve import exit_decisions
from tests.shared import SMALL, call, the_error


def test_a_small_benchmark_agrees_with_the_simulation(thin_networks, capsys):
    sizes = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    assert call(main, *sizes, "--videos", 4, "--batch_size", 2, "--rounds", 1, "--p", 10, 19) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"^early exit, p = (?:10|19) \(\d+ % fewer GFLOPs\), ms/video", printed, re.MULTILINE)) == 2
    shares = r"-?\d+ % beside patches in turn, -?\d+ % beside all at once, -?\d+ % beside the model as it is"
    assert len(re.findall(shares, printed)) == 2


def test_answers_other_than_the_simulations_are_an_error(thin_networks, monkeypatch, capsys):
    monkeypatch.setattr(early_exit, "joined", lambda answers: replace(joined(answers), exits=torch.tensor([0, 2])))
    sizes = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
    assert call(main, *sizes, "--videos", 2, "--rounds", 1, "--p", 10) == 2
    assert "operating point 10: " in the_error(capsys.readouterr().err)


@pytest.mark.parametrize("counts", [[3, 2, 1], [0, 6, 0], [6, 0, 0], [0, 0, 6]])
def test_thresholds_send_as_many_videos_to_each_exit_as_wanted(counts):
    values = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    thresholds = thresholds_for(values, counts)
    assert np.isfinite(thresholds[:-1]).all()
    exits = exit_decisions(values[..., None], thresholds, "confidence")
    assert np.bincount(exits, minlength=3).tolist() == counts


def test_the_shares_are_those_of_the_operating_point():
    assert videos_per_exit(14, 3, 10) == [8, 4, 2]
    assert sum(videos_per_exit(5, 17, 19)) == 5


def test_wrong_options_are_one_line(capsys):
    assert call(main, "--p", "20") == 2
    assert "--p must be from 1 to 19" in the_error(capsys.readouterr().err)
