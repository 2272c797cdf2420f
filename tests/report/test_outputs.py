"""What an evaluation leaves: in TensorBoard while training, and files with `--evaluate`."""

import csv
import re
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from dataset_config import get_dataset
from ops import engine
from ops.data.dataset import VideoDataset
from ops.data.transforms import evaluation_frames
from ops.inference import check_precision
from ops.report import outputs
from ops.report.outputs import report_precision, show_in_tensorboard, spread_rows
from ops.utils.errors import UserError
from ops.utils.logger import RunLogger, set_earlier_run_aside
from tests.shared import SMALL, SMALL_OPTIONS, call, the_error, write_frames
from tests.thin import thin_networks

FOLDER = "UniAdaFocus_mine_mbv2_segment6_e2"
pytestmark = pytest.mark.usefixtures("thin_networks")
NAMES = ["$a$", "b|c", "日本", "_d", "never seen"]


class Run(NamedTuple):
    """A run of two epochs, of which the second was done again."""

    options: list
    folder: Path
    last: engine.Evaluated


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = tmp_path_factory.mktemp("data")
    (data / "classInd.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    (data / "train_split.txt").write_text("".join(f"train{number},8,{number}\n" for number in (0, 1)))
    (data / "val_split.txt").write_text("".join(f"val{number},8,{number % 4}\n" for number in range(5)))
    for seed, name in enumerate(["train0", "train1", *(f"val{number}" for number in range(5))]):
        write_frames(data / "frames" / name, 8, seed)
    log = tmp_path_factory.mktemp("log")
    options = ["--dataset", "mine", "--data_dir", data, *SMALL_OPTIONS, "--epochs", 2, "--root_log", log]
    found, original = [], engine.evaluate

    def evaluate(*arguments, **keywords):
        found.append(original(*arguments, **keywords)[1])
        return {"Acc_pred@1": 0.0}, found[-1]

    with pytest.MonkeyPatch.context() as patch, thin_networks():
        patch.setattr(engine, "evaluate", evaluate)
        assert call(main.main, *options) == 0
        (log / FOLDER / "curves.png").unlink()
        assert call(main.main, *options, "--resume", log / FOLDER / "ckpt.pth.tar", "--start_epoch", 1) == 0
    for checkpoint in (log / FOLDER).glob("ckpt.*.pth.tar"):  # they are large
        checkpoint.unlink()
    return Run(options, log / FOLDER, found[-1])


def entries(folder: Path) -> EventAccumulator:
    """All that TensorBoard shows of a run."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "tensors": 0})
    return events.Reload()


def table_of(events: EventAccumulator) -> str:
    return events.Tensors("classes/per_class/text_summary")[-1].tensor_proto.string_val[0].decode()


def test_tensorboard_shows_pictures_at_every_evaluation_once_where_a_run_goes_on(run):
    events = entries(run.folder)
    names = ["inspection/1", "inspection/2", "inspection/3", "classes/confusion"]
    assert sorted(events.Tags()["images"]) == sorted(names)
    for name in names:
        images = events.Images(name)
        assert [image.step for image in images] == [0, 1]
        assert images[0].width > 300 and images[0].height > 200
    as_shown = plugin_event_accumulator.EventAccumulator(str(run.folder)).Reload()  # drops repeated texts too
    assert [entry.step for entry in as_shown.Tensors("classes/per_class/text_summary")] == [0, 1]
    table = table_of(events)
    assert "accuracy (%)" in table and r"b\|c" in table and table.count("\n") == 1 + len(NAMES)
    assert (run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_shows_the_distributions_of_what_the_policies_choose(run):
    assert run.last.actions.shape == (5, 3, 4) and run.last.frame_weights.shape == (5, 3)
    size = SMALL["input_size"]
    low = size * 96 / 224
    y, x, height, width = run.last.actions.numpy().reshape(-1, 4).T
    height, width = low + height * (size - low), low + width * (size - low)
    expected = {
        "patches/centre_y": y * (size - height) + height / 2,
        "patches/centre_x": x * (size - width) + width / 2,
        "patches/height": height,
        "patches/width": width,
        "frames/weight": run.last.frame_weights.numpy().flatten(),
    }
    events = entries(run.folder)
    assert sorted(events.Tags()["histograms"]) == sorted(expected)
    for name, values in expected.items():
        assert [histogram.step for histogram in events.Histograms(name)] == [0, 1]
        last = events.Histograms(name)[-1].histogram_value
        assert last.num == 15
        found = (last.min, last.max, last.sum)
        np.testing.assert_allclose(found, (values.min(), values.max(), values.sum()), rtol=1e-4)


def test_evaluate_writes_a_table_and_curves_beside_the_checkpoint(run, tmp_path, capsys):
    (run.folder / "curves.png").unlink()
    arguments = ["--evaluate", "--resume", run.folder / "ckpt.pth.tar"]
    assert call(main.main, *run.options, *arguments, "--save_predictions", tmp_path / "predictions.npz") == 0
    table = run.folder / "per_class.csv"
    assert f"Each class: {table}; curves of the run: {run.folder / 'curves.png'}" in capsys.readouterr().out
    assert (run.folder / "curves.png").exists()
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with np.load(tmp_path / "predictions.npz") as predictions:
        predicted, labels = predictions["logits"].argmax(1), predictions["labels"][:, 0]
    assert [row["name"] for row in rows] == NAMES
    assert [int(row["videos"]) for row in rows] == [2, 1, 1, 1, 0]
    assert [int(row["predicted"]) for row in rows] == np.bincount(predicted, minlength=5).tolist()
    for number, row in enumerate(rows[:4]):
        assert float(row["accuracy"]) == pytest.approx(100 * np.mean(predicted[labels == number] == number), abs=1e-3)


def test_a_checkpoint_from_elsewhere_damages_no_files_of_the_run_in_the_log_folder(run, tmp_path):
    elsewhere = tmp_path / "published.pth.tar"
    elsewhere.write_bytes((run.folder / "ckpt.pth.tar").read_bytes())
    kept = {path: path.read_bytes() for path in run.folder.iterdir() if path.name in ("per_class.csv", "curves.png")}
    assert call(main.main, *run.options, "--evaluate", "--resume", elsewhere) == 0
    assert (run.folder / "per_class_of_published.csv").exists()
    assert {path: path.read_bytes() for path in kept} == kept
    # Where there is no run, the plain name is free.
    assert call(main.main, *run.options, "--evaluate", "--resume", elsewhere, "--root_log", tmp_path / "new") == 0
    assert {path.name for path in (tmp_path / "new" / FOLDER).iterdir()} == {".lock", "log_eval.csv", "per_class.csv"}


def test_a_new_run_sets_tables_and_curves_aside(tmp_path):
    names = {"metrics.jsonl", "curves.png", "per_class.csv", "per_class_of_published.csv"}
    for name in names:
        (tmp_path / name).write_text("")
    assert {path.name for path in set_earlier_run_aside(tmp_path).iterdir()} == names


def test_a_set_with_several_labels_has_a_table_of_ap_and_no_confusion_matrix(
    make_dataset, small_model, tmp_path, monkeypatch
):
    folder, drawn, draw = make_dataset({"a": [0]}, {"d": [0, 1], "e": [2]}), [], outputs.inspection_figure
    (folder / "val_split.txt").write_text("d,8,0,1\ne,4,2\n")  # two videos, where three would be shown
    monkeypatch.setattr(outputs, "inspection_figure", lambda *given, **how: drawn.append(how) or draw(*given, **how))
    data = VideoDataset(get_dataset("mine", folder), "val", SMALL["num_segments"], SMALL["input_size"], training=False)
    (folder / "frames" / "d" / "image_00001.jpg").write_bytes(b"damaged")
    evaluated = engine.Evaluated(torch.randn(2, 4), torch.rand(2, 3, 4), torch.full((2, 3), 1 / 3))
    logger = RunLogger(tmp_path / "log")
    show_in_tensorboard(logger, small_model.eval(), data, evaluated, 7)
    logger.close()
    events = entries(tmp_path / "log")
    assert [(each["title"], each["truth"], each["unit"]) for each in drawn] == [
        ("d", [0, 1], "frame"), ("e", [2], "frame")
    ]  # fmt: skip
    for frames, each in zip((8, 4), drawn, strict=True):
        assert list(each["times"]) == list(evaluation_frames(num_frames=frames, num_segments=SMALL["num_segments"]))
    assert events.Tags()["images"] == ["inspection/1", "inspection/2"] and events.Images("inspection/1")[0].step == 7
    assert "| AP (%) |" in table_of(events)
    assert data.replaced_frames.tolist() == [0, 0]  # the evaluation counts and says it, not the picture


@pytest.mark.usefixtures("no_pictures")
def test_an_evaluation_below_float32_says_how_near_it_is_and_one_in_float32_does_not(run, tmp_path, capsys):
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except UserError as error:
        pytest.skip(str(error))
    options = [*run.options, "--evaluate", "--resume", run.folder / "ckpt.pth.tar", "--root_log", tmp_path]
    assert call(main.main, *options) == 0
    assert "float32" not in capsys.readouterr().out
    assert call(main.main, *options, "--eval_precision", "bfloat16") == 0
    line = r"^bfloat16: (\d) of 5 videos with the first class of float32, probabilities at most (\d\.\d{3}) apart$"
    same, apart = re.search(line, capsys.readouterr().out, re.MULTILINE).groups()
    assert int(same) >= 3 and float(apart) < 0.2
    assert call(main.main, *options, "--eval_precision", "float16") == 2
    assert "float16 is for GPUs" in the_error(capsys.readouterr().err)


def test_how_near_an_evaluation_is_to_float32_is_of_what_both_say(make_dataset, monkeypatch):
    folder = make_dataset({"a": [0]}, {"d": [0], "e": [1]})
    (folder / "frames" / "d" / "image_00001.jpg").write_bytes(b"damaged")
    data = VideoDataset(get_dataset("mine", folder), "val", 6, 64, training=False)
    shares = {"bfloat16": [[0.3, 0.4, 0.3], [0.2, 0.7, 0.1]], "float32": [[0.6, 0.2, 0.2], [0.2, 0.7, 0.1]]}
    said = {name: Namespace(logits=torch.tensor(of_each).log()) for name, of_each in shares.items()}
    monkeypatch.setattr(outputs, "prepare_for_inference", lambda model, name: lambda frames: said[name])
    lines: list[str] = []
    run = Namespace(
        options=Namespace(eval_precision="bfloat16"), device=torch.device("cpu"), log=Namespace(line=lines.append)
    )
    report_precision(run, None, data)
    assert lines == ["bfloat16: 1 of 2 videos with the first class of float32, probabilities at most 0.300 apart"]
    assert data.replaced_frames.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("videos", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (10, [1, 5, 8]), (600, [100, 300, 500])]
)
def test_the_videos_shown_are_spread_over_the_split(videos, expected):
    assert spread_rows(videos, 3) == expected
