"""What whole training runs leave, pictures and all; the commands of the documents run in test_docs_*.py."""

import json
import math
import re

import numpy as np
import pytest
import torch

import main
from tests.shared import SMALL_OPTIONS, call, run_script

FILES = {
    ".lock",
    "log.csv",
    "args.txt",
    "metrics.jsonl",
    "events.out",
    "curves.png",
    "ckpt.pth.tar",
    "ckpt.best.pth.tar",
}


@pytest.fixture
def options(dataset_folder, tmp_path):
    """Options of a small run on the small dataset."""
    return ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS]


def _run_folder(tmp_path, epochs):
    return tmp_path / "log" / f"UniAdaFocus_mine_mbv2_segment6_e{epochs}"


def _names(folder):
    return {path.name.split(".tfevents")[0] for path in folder.iterdir()}


def _records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_the_documented_files(thin_networks, options, tmp_path, capsys):
    assert call(main.main, *options, "--epochs", 2, "--save_predictions", tmp_path / "predictions.npz") == 0

    folder = _run_folder(tmp_path, 2)
    assert _names(folder) == FILES | {"ckpt.1.pth.tar"}
    printed = capsys.readouterr().out
    assert printed == (folder / "log.csv").read_text()
    assert re.search(r"Epoch: \[1\]\[1/2\], lr: 0\.00100\tTime .*\tData .*\tLoss ", printed)
    assert "patch_size: 32" in (folder / "args.txt").read_text()
    records = _records(folder)
    assert [record["epoch"] for record in records] == [0, 1]
    assert all(math.isfinite(value) for record in records for value in record["train"].values())
    assert {
        f"Acc_{head}@{k}" for head in ("pred", "cat", "global", "local", "temporal", "spatial") for k in (1, 5)
    } <= (set(records[0]["val"]))
    with np.load(tmp_path / "predictions.npz") as predictions:
        assert predictions["video"].tolist() == [f"val{n}" for n in range(5)]
        assert predictions["logits"].shape == (5, 4)
        assert predictions["labels"].tolist() == [[n % 4, -1, -1] for n in range(5)]
        top1 = 100 * np.mean(predictions["logits"].argmax(1) == predictions["labels"][:, 0])
    assert records[-1]["val"]["Acc_pred@1"] == pytest.approx(top1)


def test_semi_amp_as_a_user_starts_it_at_full_size(options, tmp_path):
    done = run_script("main_semiAMP.py", *options, "--epochs", 1)
    folder = _run_folder(tmp_path, 1)
    assert _names(folder) == FILES
    assert done.stdout == (folder / "log.csv").read_text()
    (record,) = _records(folder)
    assert all(math.isfinite(value) for value in record["train"].values()) and "Acc_pred@1" in record["val"]
    assert (folder / "ckpt.pth.tar").stat().st_size > 3e8
    state = torch.load(folder / "ckpt.pth.tar", weights_only=True)
    assert state["state_dict"]["module.local_CNN.layer4.2.conv3.weight"].shape == (2048, 512, 1, 1)
