"""Whole runs on lists and folders of the shapes that people have, which are not those that one would make up."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import main
import main_semiAMP
import test_early_exit_uni_adafocus
from dataset_config import get_dataset
from ops.data import check as data_check
from ops.data.annotations import read_annotations
from tests.shared import SMALL_OPTIONS, call, write_frames

pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")
ACTIVITYNET_CLASSES = "0,Applying sunscreen\n1,Archery\n2,Arm wrestling\n3,Assembling bicycle\n"
THERE = 40  # frames of a video; lists count up to three more, from another machine's ffmpeg


def activitynet_rows(split: str, videos: int) -> Iterator[tuple[str, str]]:
    """(folder, row) of each video: repeated labels, names with and without the prefix, counts that are too high."""
    for number in range(videos):
        folder = f"v_{split}-{number}_x"
        name = folder if number % 2 else folder.removeprefix("v_")
        labels = [number % 4] * (1, 2, 4, 23)[number % 4]
        if number == 2:
            labels = [3, 0, 3, 3]
        yield folder, ",".join([name, str(THERE + number % 4), *map(str, labels)])


@pytest.fixture(scope="module")
def activitynet(tmp_path_factory) -> Path:
    """A small data folder in the shape of ActivityNet's."""
    root = tmp_path_factory.mktemp("actnet")
    (root / "classInd.txt").write_text(ACTIVITYNET_CLASSES)
    for split in ("train", "val"):
        rows = list(activitynet_rows(split, 5))
        (root / f"actnet_{split}_split.txt").write_text("".join(f"{row}\n" for _, row in rows))
        for seed, (folder, _) in enumerate(rows):
            write_frames(root / "frames" / folder, THERE, seed)
    return root


def record(log: Path) -> dict:
    (path,) = log.glob("*/metrics.jsonl")
    return json.loads(path.read_text().splitlines()[-1])


def test_activitynet_trains_evaluates_and_exits_early(activitynet, tmp_path, capsys):
    options = ["--dataset", "actnet", "--data_dir", activitynet, "--root_log", tmp_path, *SMALL_OPTIONS, "--epochs", 1]
    assert call(main.main, *options) == 0
    printed = capsys.readouterr().out
    assert "4 classes, metric map" in printed
    assert re.search(r"warning: 6 videos with fewer frames than listed, at most 3 fewer", printed)
    metrics = record(tmp_path)
    assert {"mAP", "smAP", "Cat_mAP", "Prec@1", "Prec@5", "loss"} <= metrics["val"].keys()
    assert {"Acc_pred@1", "Acc_spatial@5"} <= metrics["train"].keys()
    assert re.search(r"Epoch: \[0\]\[1/2\].*\tPrec@1 [\d.]+ \([\d.]+\).*\tAcc_local@1 ", printed)
    assert re.search(r"Testing Results: .*mAP [\d.]+.* Prec@1 [\d.]+ Prec@5 100\.000 loss ", printed)

    checkpoint = next(tmp_path.glob("*/ckpt.pth.tar"))
    predictions = tmp_path / "predictions.npz"
    again = ["--evaluate", "--resume", checkpoint, "--save_predictions", predictions]
    assert call(main.main, *options, *again) == 0
    with np.load(predictions) as kept:
        assert kept["labels"].tolist() == [[0, -1, -1], [1, -1, -1], [0, 3, -1], [3, -1, -1], [0, -1, -1]]
    assert call(test_early_exit_uni_adafocus.main, *options, "--resume", checkpoint) == 0
    assert (checkpoint.parent / "early_exit_confidence.json").is_file()


@pytest.mark.parametrize(("root", "template"), [("", "img_{:05d}.jpg"), ("frames", "image_{:05d}.jpg")])
def test_both_releases_of_mini_kinetics_train(root, template, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    (data / "minik_classInd.txt").write_text("air drumming\narm wrestling\n")
    for split in ("train", "val"):
        names = [f"images/{split}/{('air drumming', 'arm wrestling')[n % 2]}/-0hr{n}_0007_0017" for n in range(4)]
        rows = [f"{name} {THERE + 1} {n % 2}\n" for n, name in enumerate(names)]
        (data / f"mini_{split}_videofolder.txt").write_text("".join(rows))
        for seed, name in enumerate(names):
            write_frames(data / root / name, THERE, seed, template)
    options = ["--dataset", "minik", "--data_dir", data, "--root_log", tmp_path / "log", *SMALL_OPTIONS, "--epochs", 1]
    assert call(main_semiAMP.main, *options) == 0
    assert f"metric accuracy, frames {data / root}/*/{template}" in capsys.readouterr().out
    assert record(tmp_path / "log")["left_out"] == {"train": 0, "val": 0}


def test_evaluation_in_batches_of_its_own_with_a_log_of_its_own_and_published_pixels(activitynet, tmp_path, capsys):
    options = ["--dataset", "actnet", "--data_dir", activitynet, "--root_log", tmp_path, *SMALL_OPTIONS, "--epochs", 1]
    assert call(main.main, *options) == 0
    (folder,) = tmp_path.iterdir()
    trained = (folder / "log.csv").read_bytes()
    evaluate = [*options, "--evaluate", "--resume", folder / "ckpt.pth.tar", "--print-freq", 1]
    printed = {}
    for name, extra in {"eval": (), "large": ("--val_batch_size", 5), "exact": ("--decode", "pillow")}.items():
        capsys.readouterr()
        suffix = () if name == "eval" else ("--eval_suffix", name)
        assert call(main.main, *evaluate, *extra, *suffix) == 0
        printed[name] = capsys.readouterr().out
        assert (folder / f"log_{name}.csv").read_text() == printed[name]
    assert (folder / "log.csv").read_bytes() == trained  # evaluations leave it alone
    batches = {name: re.findall(r"Test: \[(\d)/(\d)\]", text) for name, text in printed.items()}
    assert batches["eval"] == [("0", "3"), ("1", "3"), ("2", "3")] and batches["large"] == [("0", "1")]


def test_ten_thousand_rows_are_checked(tmp_path):
    """As many as ActivityNet's training list has, each two frames short; of a hundred folders, links to one of them."""
    write_frames(tmp_path / "video", 43, seed=0)
    (tmp_path / "frames").mkdir()
    (tmp_path / "classInd.txt").write_text("".join(f"{n},class {n}\n" for n in range(200)))
    with (
        open(tmp_path / "actnet_train_split.txt", "w") as train,
        open(tmp_path / "actnet_val_split.txt", "w") as val,
    ):
        for number in range(100):
            os.symlink(tmp_path / "video", tmp_path / "frames" / f"v_{number:011d}")
        for number in range(10_000):
            train.write(f"{number % 100:011d},45," + ",".join([str(number % 200)] * (1 + number % 23)) + "\n")
        val.write("00000000000,43,0\n")
    config = get_dataset("actnet", tmp_path)
    annotations = read_annotations(config.train_split, ",", 200)
    findings = data_check.find_problems(config, annotations)
    assert findings == [data_check.ShortVideo(row, 43) for row in range(10_000)]
    assert annotations.labels[:, 0].tolist() == [number % 200 for number in range(10_000)]
