"""Whole runs of the early-exit script, as a user starts them."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main
import test_early_exit_uni_adafocus as script
from dataset_config import get_dataset
from models.uni_adafocus import UniAdaFocus
from ops.data.dataset import VideoDataset
from ops.early_exit import criterion_values, exit_decisions
from ops.early_exit import inference as dynamic
from ops.early_exit import run as early_exit_run
from ops.early_exit.curve import exit_thresholds
from ops.early_exit.figure import early_exit_figure
from ops.early_exit.run import halves
from ops.stepwise import stepwise
from ops.utils.signals import StopRequest
from tests.shared import SMALL, SMALL_OPTIONS, call, call_together, reference_weights, the_error, write_frames
from tests.test_resume import stop_with_workers
from tests.thin import thin_networks
from tests.utils.test_logger import another_run_in

CRITERIA = ("confidence", "entropy")
RUN = "UniAdaFocus_mine_mbv2_segment6_e50"
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A weights file of the small settings whose predictions differ from video to video."""
    with thin_networks():
        model = UniAdaFocus(4, **SMALL)
    path = tmp_path_factory.mktemp("weights") / "reference.pth.tar"
    torch.save({"state_dict": {f"module.{name}": value for name, value in reference_weights(model).items()}}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Nine training and eight validation videos of 4 classes."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "classInd.txt").write_text("a\nb\nc\nd\n")
    for split, videos in (("train", 9), ("val", 8)):
        (folder / f"{split}_split.txt").write_text("".join(f"{split}{n},8,{n % 4}\n" for n in range(videos)))
        for number in range(videos):
            write_frames(folder / "frames" / f"{split}{number}", 8, seed=len(split) * 100 + number)
    (folder / "frames" / "broken").mkdir()
    for number in range(1, 9):
        (folder / "frames" / "broken" / f"image_{number:05d}.jpg").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def finished(data, checkpoint, tmp_path_factory) -> Path:
    """The log folder of a run with pictures and `--dynamic 10`, which tests only read."""
    log = tmp_path_factory.mktemp("log")
    extra = [
        "--evaluate",
        "--save_predictions",
        log / "predictions.npz",
        "--dynamic",
        "10",
        "--dynamic_batch_size",
        "3",
    ]
    with thin_networks():
        assert call(script.main, *arguments(data, checkpoint, log), *extra) == 0
    return log / RUN


@pytest.fixture
def options(data, checkpoint, tmp_path) -> list[object]:
    return arguments(data, checkpoint, tmp_path / "log")


@pytest.fixture
def again(options, finished, tmp_path) -> list[object]:
    """Options of a run in a log folder where the finished one has been."""
    shutil.copytree(finished, tmp_path / "log" / RUN)
    (tmp_path / "log" / RUN / "log_eval.csv").unlink()
    return options


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "log" / RUN


def arguments(data: Path, checkpoint: Path, log: Path) -> list[object]:
    return ["--dataset", "mine", "--data_dir", data, "--root_log", log, *SMALL_OPTIONS, "--resume", checkpoint]


def curve(folder: Path, criterion: str) -> list[dict[str, float]]:
    with open(folder / f"early_exit_{criterion}.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def kept(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "exit_logits.npz") as file:
        return {name: file[name] for name in file.files}


def other_data(data: Path, copy: Path, **rows: str) -> Path:
    """The same frames with other split files."""
    copy.mkdir()
    (copy / "frames").symlink_to(data / "frames")
    for name in ("classInd", "train_split", "val_split"):
        (copy / f"{name}.txt").write_text(rows.get(name) or (data / f"{name}.txt").read_text())
    return copy


def test_a_run_leaves_the_documented_files(finished):
    names = {path.name for path in finished.iterdir()}  # no TensorBoard log: its steps are epochs of a training
    of_criteria = {f"early_exit_{criterion}.{kind}" for criterion in CRITERIA for kind in ("csv", "json")}
    assert names == of_criteria | {".lock", "early_exit.png", "exit_logits.npz", "log_eval.csv"}
    assert (finished / "early_exit.png").read_bytes().startswith(b"\x89PNG")
    assert kept(finished)["train_logits"].shape == (9, 3, 4) and kept(finished)["val_logits"].shape == (8, 3, 4)


def test_the_cost_of_each_exit_is_printed_before_anything_is_computed(finished):
    costs, _, rest = (finished / "log_eval.csv").read_text().partition("Exit logits, train: [0/5]")
    assert re.search(
        r"GFLOPs of a video that leaves at each exit.*\n  exit  0 +0\.\d{4}\n  exit  1 .*\n  exit  2 ", costs
    )
    assert "Exit logits, val: [3/4]" in rest


@pytest.mark.parametrize("criterion", CRITERIA)
def test_curve_thresholds_and_logits_hang_together(finished, checkpoint, criterion):
    logits, labels = kept(finished)["val_logits"], kept(finished)["val_labels"]
    thresholds = json.loads((finished / f"early_exit_{criterion}.json").read_text())
    assert thresholds["checkpoint"]["path"] == str(checkpoint) and thresholds["calibrated_on"] == "train"
    for row, point in zip(curve(finished, criterion), thresholds["points"], strict=True):
        exits = exit_decisions(logits, [t if t is not None else np.inf for t in point["thresholds"]], criterion)
        shares = np.bincount(exits, minlength=3) / 8
        assert [row[f"exit_{number}"] for number in range(3)] == pytest.approx(shares)
        assert row["metric"] == pytest.approx(100 * (logits[range(8), exits].argmax(1) == labels[:, 0]).mean())
        assert row["gflops"] == pytest.approx(shares @ thresholds["exit_gflops"], rel=1e-5)
    assert len({row["exit_0"] for row in curve(finished, criterion)}) > 1


def check_thresholds(folder: Path, criterion: str, logits: np.ndarray) -> list[np.ndarray]:
    """The thresholds of a run are those of these logits; returns them, of one operating point after the other."""
    values = criterion_values(logits, criterion).numpy()
    points = json.loads((folder / f"early_exit_{criterion}.json").read_text())["points"]
    expected = [exit_thresholds(values, point["p"]) for point in points]
    for point, thresholds in zip(points, expected, strict=True):
        assert point["thresholds"] == [value if np.isfinite(value) else None for value in thresholds.tolist()]
    return expected


@pytest.mark.parametrize("criterion", CRITERIA)
def test_thresholds_are_found_on_the_training_split(finished, criterion):
    check_thresholds(finished, criterion, kept(finished)["train_logits"])


@torch.no_grad()
def test_logits_of_the_training_split_are_of_training_time_frames_and_crops(finished, data):
    model = UniAdaFocus(4, **SMALL).eval()
    model.load_state_dict(reference_weights(model))
    for split, training in (("train", True), ("val", False)):
        videos = VideoDataset(get_dataset("mine", data), split, 6, 64, training=training)
        clips = torch.stack([videos[number][0] for number in range(len(videos))])
        expected = model(clips).step_logits[:, SMALL["num_glance_segments"] - 1 :]
        np.testing.assert_allclose(kept(finished)[f"{split}_logits"], expected, atol=2e-3)


def test_the_last_exit_is_what_main_evaluates(finished, options, tmp_path):
    call(main.main, *options, "--evaluate", "--save_predictions", tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz") as of_main, np.load(finished.parent / "predictions.npz") as of_script:
        assert np.array_equal(kept(finished)["val_logits"][:, -1], of_script["logits"])
        np.testing.assert_allclose(of_script["logits"], of_main["logits"], atol=1e-3)
        assert of_script["video"].tolist() == of_main["video"].tolist()


def check_real_run(printed: str, folder: Path, criterion: str, batch: int) -> None:
    assert f"by {criterion}: 8 videos in batches of {batch}, 1 patch(es) between checks" in printed
    point = curve(folder, criterion)[9]
    row = re.search(r"^p = 10 +(\S+) +(\S+) +(\S+) ", printed, re.MULTILINE)
    assert float(row[1]) == float(row[2]) == pytest.approx(point["gflops"], abs=1e-3)
    assert float(row[3]) == pytest.approx(point["metric"], abs=1e-2)
    counts = [round(8 * point[f"exit_{number}"]) for number in range(3)]
    assert f"p = 10: videos at each exit {' '.join(map(str, counts))}; 8 of 8 with the simulation's exit" in printed
    assert "without exits: videos at each exit 0 0 8; 8 of 8 with the simulation's" in printed


def test_a_run_for_real_agrees_with_the_simulation(finished):
    check_real_run((finished / "log_eval.csv").read_text(), finished, "confidence", batch=3)


def test_a_second_call_computes_only_the_curves_and_may_decide_by_entropy(again, finished, folder, capsys):
    assert call(script.main, *again, "--lr", "1", "--dynamic", "10", "--criterion", "entropy") == 0
    printed = capsys.readouterr().out
    assert printed == (folder / "log_eval.csv").read_text()
    assert "Exit logits" not in printed and printed.count("only the curves are computed") == 2
    assert all(curve(folder, criterion) == curve(finished, criterion) for criterion in CRITERIA)
    check_real_run(printed, folder, "entropy", batch=1)


def test_another_checkpoint_has_its_logits_computed(again, finished, folder, checkpoint, tmp_path, capsys):
    state = torch.load(checkpoint)
    state["state_dict"]["module.classifier.local_classifiers.1.1.bias"] += 1
    torch.save(state, tmp_path / "other.pth.tar")
    assert call(script.main, *again, "--resume", tmp_path / "other.pth.tar", "--calibrate_on", "val_half") == 0
    assert re.search(r"the val logits are not of this run \(checkpoint .* -> .*\); computing", capsys.readouterr().out)
    difference = kept(folder)["val_logits"] - kept(finished)["val_logits"]
    np.testing.assert_allclose(difference, np.broadcast_to([[0], [0], [1]], difference.shape), atol=1e-4)


def test_names_with_dollar_signs_are_drawn_as_they_stand(folder, data, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(early_exit_run, "early_exit_figure", early_exit_figure)  # as it is without `no_pictures`
    shutil.copyfile(checkpoint, tmp_path / "best_$_$_x.pth.tar")
    options = [*arguments(data, tmp_path / "best_$_$_x.pth.tar", tmp_path / "log"), "--dataset", "a$_$b"]
    assert call(script.main, *options, "--calibrate_on", "val_half", "--dynamic", 10) == 0
    folder = folder.with_name(RUN.replace("mine", "a$_$b"))
    assert (folder / "early_exit.png").read_bytes().startswith(b"\x89PNG")
    assert "with the simulation's exit" in capsys.readouterr().out


def test_half_of_the_validation_split_serves_for_thresholds_and_the_other_is_evaluated(
    options, folder, data, tmp_path, capsys
):
    no_training_split = other_data(data, tmp_path / "data", train_split="\n")
    options += ["--data_dir", no_training_split, "--calibrate_on", "val_half", "--dynamic", "all", "--focus_chunk", "2"]
    assert call(script.main, *options) == 0
    printed = capsys.readouterr().out
    assert "Exit logits, train" not in printed
    assert "by confidence: 4 videos in batches of 1, 2 patch(es) between checks" in printed
    assert [int(p) for p in re.findall(r"^p = (\d+): .*; 4 of 4 with", printed, re.MULTILINE)] == list(range(1, 20))
    assert json.loads((folder / "early_exit_entropy.json").read_text())["calibrated_on"] == "val_half"
    calibrated, evaluated = halves(8)
    logits, labels = kept(folder)["val_logits"], kept(folder)["val_labels"][evaluated, 0]
    for criterion in CRITERIA:
        found = check_thresholds(folder, criterion, logits[calibrated])
        for row, thresholds in zip(curve(folder, criterion), found, strict=True):
            exits = exit_decisions(logits[evaluated], thresholds, criterion)
            right = logits[evaluated, exits].argmax(1) == labels
            assert row["metric"] == pytest.approx(100 * right.mean())


def test_logits_have_the_precision_and_random_exits_the_seed_asked_for(options, monkeypatch):
    given, prepare, curves = [], early_exit_run.prepare_for_inference, early_exit_run.compute_curves

    def prepared(model, precision, compiled):
        given.append(precision)
        return prepare(model)

    def computed(*arguments):
        given.append(arguments[-1])
        return curves(*arguments)

    monkeypatch.setattr(early_exit_run, "prepare_for_inference", prepared)
    monkeypatch.setattr(early_exit_run, "compute_curves", computed)
    monkeypatch.setattr(early_exit_run, "report_precision", lambda *_: None)
    monkeypatch.setattr("ops.setup.check_precision", lambda *_: None)
    assert call(script.main, *options, "--calibrate_on", "val_half", "--eval_precision", "bfloat16", "--seed", 7) == 0
    assert given == ["bfloat16", 7]


def test_results_that_rounding_does_not_explain_are_exit_code_1(again, monkeypatch, capsys):
    def other_classes(*given):
        for step in stepwise(*given):
            step.logits = step.logits.roll(1, dims=-1)
            yield step

    monkeypatch.setattr(dynamic, "stepwise", other_classes)
    assert call(script.main, *again, "--dynamic", "10") == 1
    assert re.search(r"p = 10: .*; 0 of 8 with the simulation's exit and class", capsys.readouterr().out)


def test_one_video_in_each_split_gives_whole_curves(options, folder, data, tmp_path):
    single = other_data(data, tmp_path / "data", train_split="train0,8,0\n", val_split="val0,8,0\n")
    assert call(script.main, *options, "--data_dir", single) == 0
    for criterion in CRITERIA:
        assert [(row["p"], row["exit_2"]) for row in curve(folder, criterion)] == [(p, 1) for p in range(1, 20)]


def test_videos_that_are_alike_leave_together(options, folder, data, tmp_path):
    alike = other_data(data, tmp_path / "data", val_split="val1,8,1\n" * 5)
    assert call(script.main, *options, "--data_dir", alike, "--batch_size", 1) == 0
    for criterion in CRITERIA:
        for row in curve(folder, criterion):
            assert sorted(row[f"exit_{number}"] for number in range(3)) == [0, 0, 1]


def test_a_dataset_with_several_labels_reports_map(make_dataset, tmp_path, checkpoint, capsys):
    data = make_dataset(
        {"a": [0], "b": [1, 2], "c": [3]}, {"d": [0, 1], "e": [2, 3, 1], "f": [3], "g": [0]}, names=(
            "classInd.txt", "actnet_train_split.txt", "actnet_val_split.txt"
        )
    )  # fmt: skip
    options = arguments(data, checkpoint, tmp_path / "log")
    assert call(script.main, *options, "--dataset", "actnet", "--dynamic", 5) == 0
    printed = capsys.readouterr().out
    assert "Early exit by entropy, mAP in percent" in printed
    assert "Published" not in printed  # other settings than the published ones


def test_options_of_dynamic_are_named_without_it(again, folder, capsys):
    assert call(script.main, *again, "--criterion", "entropy") == 0
    line = "Without effect: --criterion, without --dynamic\n"
    assert line in capsys.readouterr().out and line in (folder / "log_eval.csv").read_text()


@pytest.mark.filterwarnings("error")
def test_the_log_says_once_how_many_classes_the_map_leaves_out(options, folder, data, tmp_path, capsys):
    rows = other_data(data, tmp_path / "data", val_split="val0,8,0\nval1,8,1\nval2,8,2\nval3,8,1\nval4,8,0\n")
    options += ["--data_dir", rows, "--metric", "map", "--dynamic", 10]
    for more, line in (
        ([], "warning: 1 of 4 classes have no video among these 5; they are left out of the mAP"),
        (["--calibrate_on", "val_half"], "warning: 2 of 4 classes have no video among these 3; they are left out"),
    ):
        assert call(script.main, *options, *more) == 0
        captured = capsys.readouterr()
        assert captured.out.count(line) == captured.out.count("left out of the mAP") == 1
        assert captured.err == "" and line in (folder / "log_eval.csv").read_text()


def test_two_processes_give_the_curves_of_one_and_compute_what_is_not_kept(options, finished, folder):
    expected = kept(finished)
    folder.mkdir(parents=True)
    np.savez(
        folder / "exit_logits.npz", **{name: found for name, found in expected.items() if name.startswith("train")}
    )
    options += ["--dynamic", "10", "--dynamic_batch_size", "3"]
    done = call_together(script.main, *options)
    assert "2 process(es) on cpu" in done.stdout
    assert done.stdout.count("has the train logits") == 1 and "Exit logits, train" not in done.stdout
    assert all(curve(folder, criterion) == curve(finished, criterion) for criterion in CRITERIA)
    np.testing.assert_allclose(kept(folder)["val_logits"], expected["val_logits"], atol=1e-3)
    for name, found in kept(folder).items():
        assert name == "val_logits" or np.array_equal(found, expected[name]), name
    check_real_run(done.stdout, folder, "confidence", batch=3)


def test_a_video_without_a_readable_frame_ends_the_run_by_name(again, data, tmp_path, capsys):
    broken = other_data(data, tmp_path / "data", val_split="val0,8,0\nbroken,8,0\n")
    assert call(script.main, *again, "--data_dir", broken) == 2
    captured = capsys.readouterr()
    assert "has the train logits" in captured.out and "Exit logits, train" not in captured.out
    assert "video 'broken' has no readable frame" in the_error(captured.err)


def test_a_video_that_is_not_there_is_found_first_or_left_out(options, data, tmp_path, folder, capsys):
    options += ["--data_dir", other_data(data, tmp_path / "data", val_split="val0,8,0\nnowhere,8,0\nval1,8,1\n")]
    assert call(script.main, *options) == 2
    assert not folder.exists()
    assert call(script.main, *options, "--skip_missing") == 0
    assert kept(folder)["val_video"].tolist() == ["val0", "val1"]
    assert call(script.main, *options, "--check_data", "--calibrate_on", "val_half") == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_folder_in_use_is_left_alone_by_early_exit_evaluation_and_training(options, folder, capsys):
    folder.mkdir(parents=True)
    with another_run_in(folder) as process:
        for entry, more in ((script, []), (main, ["--evaluate"]), (main, ["--resume", "", "--epochs", 50])):
            assert call(entry.main, *options, *more) == 2
            assert f"in use by another run (process {process} on" in the_error(capsys.readouterr().err)
        done = call_together(main.main, *options, "--resume", "", check=False)
        assert done.returncode == 2 and "in use by another run" in the_error(done.stderr)
        assert {path.name for path in folder.iterdir()} == {".lock", "log.csv"}


@pytest.mark.parametrize(("entry", "extra", "step"), [(script, [], 7), (main, ["--evaluate"], 2)])
def test_a_signal_to_all_processes_ends_the_run_and_keeps_what_is_computed(
    entry, extra, step, options, folder, monkeypatch, capsys
):
    agreed, steps = StopRequest.agreed, []

    def signalled(request: StopRequest) -> int:
        steps.append(1)
        if len(steps) == step:
            stop_with_workers()
        return agreed(request)

    monkeypatch.setattr(StopRequest, "agreed", signalled)
    assert call(entry.main, *options, "--workers", 2, *extra) == 143
    assert len(steps) == step and "stopped by signal 15" in capsys.readouterr().out
    assert extra or set(kept(folder)) == {
        f"train_{what}" for what in ("logits", "labels", "focus_indices", "video", "depends_on")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--resume", ""], "early exit needs --resume, the checkpoint to evaluate"),
        (["--resume", "auto"], "no checkpoint in "),
        (["--resume", "nowhere.pth.tar"], "checkpoint nowhere.pth.tar does not exist"),
        (["--dynamic", "20"], "argument --dynamic: 20 is no operating point: choose one of 1 to 19, all or none"),
        (["--dynamic", "0"], "0 is no operating point"),
        (["--dynamic", "some"], "some is no operating point"),
        (["--dynamic_batch_size", "0"], "0 is below 1"),
        (["--focus_chunk", "0"], "0 is below 1"),
        (["--num_focus_segments", "3"], "does not fit the model that the options describe"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_no_log_folder(change, message, options, folder, capsys):
    assert call(script.main, *options, *change) == 2
    assert message in the_error(capsys.readouterr().err)
    assert not folder.exists()


def test_one_validation_video_has_no_halves(options, folder, data, tmp_path, capsys):
    single = other_data(data, tmp_path / "data", val_split="val0,8,0\n")
    assert call(script.main, *options, "--data_dir", single, "--calibrate_on", "val_half") == 2
    assert "--calibrate_on val_half needs 2 or more videos" in the_error(capsys.readouterr().err)
    assert not folder.exists()


def test_a_checkpoint_from_elsewhere_leaves_the_runs_results_alone(options, folder):
    folder.mkdir(parents=True)
    kept = ["metrics.jsonl", "early_exit_confidence.json", "early_exit_entropy.csv", "early_exit.png"]
    kept += ["exit_logits.npz"]
    for name in kept:
        (folder / name).write_text("")
    assert call(script.main, *options) == 0
    assert all((folder / name).read_text() == "" for name in kept)
    for name in kept[1:]:
        stem, _, ending = name.partition(".")
        assert (folder / f"{stem}_of_reference.{ending}").stat().st_size > 0


def test_kept_logits_are_of_one_checkpoint(again, checkpoint, folder, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    torch.save({"state_dict": {name: value * 1.01 for name, value in state.items()}}, tmp_path / "other.pth.tar")
    with np.load(folder / "exit_logits.npz") as file:
        assert {"train_logits", "val_logits"} <= set(file.files)
    other = ["--resume", tmp_path / "other.pth.tar", "--calibrate_on", "val_half"]
    assert call(script.main, *again, *other) == 0
    with np.load(folder / "exit_logits.npz") as file:
        assert "val_logits" in file.files and not any(name.startswith("train") for name in file.files)
