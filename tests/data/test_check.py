"""What is said about the data before, while and instead of training."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from dataset_config import get_dataset
from models.uni_adafocus import UniAdaFocus
from ops.data import check as data_check
from ops.data.annotations import read_annotations
from ops.data.dataset import VideoDataset
from tests.shared import SMALL, SMALL_OPTIONS, call, call_together

FRAMES = 8  # listed, of each video
RUN = "log/UniAdaFocus_mine_mbv2_segment6_e1"
pytestmark = pytest.mark.usefixtures("thin_networks", "no_pictures")


@pytest.fixture
def options(dataset_folder, tmp_path) -> list:
    """Options of a run of one epoch on four training and five validation videos."""
    where = ["--dataset", "mine", "--data_dir", dataset_folder, "--root_log", tmp_path / "log"]
    return [*where, *SMALL_OPTIONS, "--epochs", 1]


def frame(folder: Path, video: str, number: int) -> Path:
    return folder / "frames" / video / f"image_{number:05d}.jpg"


def record(tmp_path: Path) -> dict:
    (line,) = (tmp_path / RUN / "metrics.jsonl").read_text().splitlines()
    return json.loads(line)


PROBLEMS = {
    "the folder is not there": (
        lambda video: shutil.rmtree(video),
        data_check.NO_FOLDER,
        "frames/train2",
    ),
    "a file has the folder's place": (
        lambda video: (shutil.rmtree(video), video.write_text("")),
        data_check.NO_FOLDER,
        "frames/train2",
    ),
    "the folder is empty": (
        lambda video: [path.unlink() for path in video.iterdir()],
        data_check.NO_FIRST_FRAME,
        "image_00001.jpg (the folder is empty)",
    ),
    "the first frame is not there": (
        lambda video: (video / "image_00001.jpg").unlink(),
        data_check.NO_FIRST_FRAME,
        "image_00001.jpg (the folder holds 7 files, image_00002.jpg to image_00008.jpg)",
    ),
    "the last frame is not there": (
        lambda video: (video / "image_00008.jpg").unlink(),
        data_check.NO_LAST_FRAME,
        "image_00008.jpg (the folder holds 7 files, image_00001.jpg to image_00007.jpg)",
    ),
    "the last frame is an empty file": (
        lambda video: (video / "image_00008.jpg").write_bytes(b""),
        data_check.NO_LAST_FRAME,
        "image_00008.jpg (the folder holds 8 files",
    ),
    "the last frame is a folder": (
        lambda video: ((video / "image_00008.jpg").unlink(), (video / "image_00008.jpg").mkdir()),
        data_check.NO_LAST_FRAME,
        "image_00008.jpg (the folder holds 8 files",
    ),
    "the first frame is a link to itself": (
        lambda video: ((video / "image_00001.jpg").unlink(), (video / "image_00001.jpg").symlink_to("image_00001.jpg")),
        data_check.NOT_READABLE,
        "image_00001.jpg: Too many levels of symbolic links",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_video_that_is_not_there_in_full_stops_the_run_before_it_starts(
    problem, options, dataset_folder, tmp_path, capsys
):
    damage, kind, detail = PROBLEMS[problem]
    damage(dataset_folder / "frames" / "train2")
    assert call(main.main, *options) == 2
    headline, video, error = capsys.readouterr().err.splitlines()
    assert headline == f"{kind}: 1 video"
    assert video.startswith(f"  train2 ({dataset_folder}/train_split.txt:3): ") and detail in video
    assert error.startswith("error: 1 of 9 listed videos are missing or damaged (see above): ")
    assert "leave these videos out with --skip_missing" in error
    assert not (tmp_path / "log").exists()


def test_all_problems_of_both_splits_are_said_at_once_with_the_first_ten_of_each_kind(make_dataset, tmp_path, capsys):
    folder = make_dataset({f"train{n:02d}": [0] for n in range(14)}, {f"val{n}": [1] for n in range(3)})
    for number in range(11):
        shutil.rmtree(folder / "frames" / f"train{number:02d}")
    shutil.rmtree(folder / "frames" / "val2")
    for video in ("train13", "val0"):
        frame(folder, video, FRAMES).unlink()
    assert call(main.main, "--dataset", "mine", "--data_dir", folder, *SMALL_OPTIONS) == 2

    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "no folder of frames: 12 videos"
    assert [line.split()[0] for line in lines[1:11]] == [f"train{number:02d}" for number in range(10)]
    assert lines[11] == "  and 2 more"
    assert lines[12] == "last listed frame missing or empty: 2 videos"
    assert [line.split()[0] for line in lines[13:15]] == ["train13", "val0"]
    assert lines[15].startswith("error: 14 of 17 listed videos are missing or damaged") and len(lines) == 16


def test_frames_of_other_names_are_shown_with_the_option_that_tells_them(options, dataset_folder, capsys):
    for path in (dataset_folder / "frames").glob("*/*"):
        path.rename(path.with_name(f"picture-{path.name}"))
    assert call(main.main, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "(the folder holds 8 files, picture-image_00001.jpg to picture-image_00008.jpg)" in lines[1]
    assert "say with --frame_template what the frames are called" in lines[-1]
    assert call(main.main, *options, "--check_data", "--frame_template", "picture-image_{:05d}.jpg") == 0


def test_frames_numbered_from_0_are_refused_with_what_to_do(options, dataset_folder, capsys):
    for video in (dataset_folder / "frames").iterdir():
        for number in range(1, FRAMES + 1):
            frame(dataset_folder, video.name, number).rename(frame(dataset_folder, video.name, number - 1))
    assert call(main.main, *options, "--skip_missing") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{data_check.FROM_ZERO}: 9 videos"
    assert "image_00000.jpg is there, and not image_00008.jpg (the folder holds 8 files" in lines[1]
    assert lines[-1].endswith("correct the split files, or rename each frame to one number more, the last one first")
    frame(dataset_folder, "train0", FRAMES).touch()  # one frame more than listed, from 0 on
    frame(dataset_folder, "train0", FRAMES).write_bytes(frame(dataset_folder, "train0", 0).read_bytes())
    assert call(main.main, *options, "--check_data", "full") == 2
    assert capsys.readouterr().err.splitlines()[0] == f"{data_check.FROM_ZERO}: 8 videos"


def test_remarks_on_the_lists_stand_at_the_start_of_the_log(options, dataset_folder, tmp_path):
    with open(dataset_folder / "train_split.txt", "a") as file:
        file.write("train0,8,0\nshort,2,0\nval1,8,1\n")
    assert call(main.main, *options, "--skip_missing") == 0
    start, _ = (tmp_path / RUN / "log.csv").read_text().split("Epoch:", 1)
    train_split = dataset_folder / "train_split.txt"
    assert f"warning: {train_split}: 1 rows repeat a video listed above them (lines 5)" in start
    assert f"{train_split}: 1 row with fewer than 3 frames left out" in start
    assert re.search("warning: 1 video in both splits, .*: val1\n", start)
    assert "skip_missing" not in start and record(tmp_path)["left_out"] == {"train": 0, "val": 0}


def test_a_training_split_without_the_first_label_is_a_warning(make_dataset, capsys):
    folder = make_dataset({"a": [1], "b": [2, 3]}, {"c": [1]})
    given = ["--dataset", "mine", "--data_dir", folder, "--check_data"]
    assert call(main.main, *given) == 0
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and f"{folder}/train_split.txt: no video has the label 0" in warnings[0]
    with open(folder / "train_split.txt", "a") as file:
        file.write("b,8,0,1\n")
    assert call(main.main, *given) == 0
    assert "label 0" not in capsys.readouterr().out


def test_a_good_video_costs_two_questions_to_the_file_system(dataset_folder, monkeypatch):
    config = get_dataset("mine", dataset_folder)
    annotations = read_annotations(config.val_split, ",", 4)
    asked = []
    stat = os.stat
    monkeypatch.setattr(
        os, "stat", lambda path, *rest, **options: (asked.append(path), stat(path, *rest, **options))[1]
    )
    assert data_check.find_problems(config, annotations) == []
    assert sorted(map(os.path.basename, asked)) == ["image_00001.jpg"] * 5 + ["image_00008.jpg"] * 5


def list_more_frames(folder: Path, split: str, frames: dict[str, int]) -> None:
    """Let the list count other frames than there are, as lists made on other machines do."""
    path = folder / f"{split}_split.txt"
    rows = [row.split(",") for row in path.read_text().splitlines()]
    path.write_text("".join(f"{name},{frames.get(name, count)},{label}\n" for name, count, label in rows))


@pytest.fixture
def long_videos(make_dataset, tmp_path) -> tuple[Path, list]:
    """A dataset of videos of 40 frames, and the options of a run on it."""
    videos = ({f"train{n}": [n % 4] for n in range(4)}, {f"val{n}": [n % 4] for n in range(4)})
    folder = make_dataset(*videos, frames=40)
    options = ["--dataset", "mine", "--data_dir", folder, "--root_log", tmp_path / "log", *SMALL_OPTIONS]
    return folder, [*options, "--epochs", 1]


def test_a_video_with_most_of_its_listed_frames_is_good_and_its_nearest_frames_serve(long_videos, tmp_path, capsys):
    folder, options = long_videos
    list_more_frames(folder, "train", {"train1": 42})
    list_more_frames(folder, "val", {"val0": 42, "val3": 41})
    for number in (32, 36):
        frame(folder, "val0", number).unlink()
    assert call(main.main, *options, "--check_data") == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"^warning: 3 videos with fewer frames than listed, at most 2 fewer \((train1|val0): 40 of 42\)", printed, re.M
    )
    assert printed.count("videos are good") == 2 and "4 of 4 videos are good" in printed
    assert call(main.main, *options, "--check_data", "full") == 0
    assert "at most 4 fewer (val0: 38 of 42)" in capsys.readouterr().out  # having looked for every frame

    assert call(main.main, *options) == 0
    printed = capsys.readouterr().out
    assert printed.count("with fewer frames than listed") == 1
    found = record(tmp_path)
    assert found["left_out"] == {"train": 0, "val": 0}
    assert found["val"]["replaced_frames"] == 1  # of 42 listed frames in 6 segments, 32 is looked at
    assert "val0" in printed.split("evaluation: ", 1)[1].splitlines()[0]


def test_a_video_with_less_than_nine_tenths_of_its_frames_stops_the_run(long_videos, tmp_path, capsys):
    folder, options = long_videos
    list_more_frames(folder, "val", {"val1": 45, "val2": 44})
    assert call(main.main, *options) == 2
    headline, video, error = (line for line in capsys.readouterr().err.splitlines() if "fewer frames" not in line)
    assert headline == f"{data_check.NO_LAST_FRAME}: 1 video"
    assert "val1" in video and "image_00045.jpg" in video and "image_00001.jpg to image_00040.jpg" in video
    assert error.startswith("error: 1 of 8 listed videos")
    assert call(main.main, *options, "--skip_missing") == 0
    assert record(tmp_path)["left_out"] == {"train": 0, "val": 1}


def test_a_full_check_finds_gaps_that_ends_do_not_show(long_videos, capsys):
    folder, options = long_videos
    for number in range(10, 15):
        frame(folder, "train2", number).unlink()
    assert call(main.main, *options, "--check_data") == 0
    assert call(main.main, *options, "--check_data", "full") == 2
    assert "5 of 40 frames are not there" in capsys.readouterr().err


@pytest.mark.parametrize("there", [range(1, 100), range(2, 101), range(1, 91), [*range(1, 90), 95], range(1, 90), []])
def test_frames_are_counted_right_whichever_are_missing(there, tmp_path):
    for number in there:
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    contiguous_from_first = 1 in there and 90 in there
    assert data_check.count_frames(str(tmp_path), "{}.jpg", 100) == len(there)
    assert contiguous_from_first == (there in (range(1, 100), range(1, 91)))


def test_frames_that_only_lack_the_last_are_counted_with_few_questions(tmp_path, monkeypatch):
    for number in range(1, 961):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    asked = []
    stat = os.stat
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", lambda path, *rest, **options: (asked.append(path), stat(path))[1])
        patched.setattr(os, "scandir", None)
        assert data_check.count_frames(str(tmp_path), "{}.jpg", 1000) == 960
    assert len(asked) < 12


def test_listed_names_find_folders_with_the_prefix_of_activitynet(options, dataset_folder, tmp_path):
    for video in ("train0", "val2"):
        (dataset_folder / "frames" / video).rename(dataset_folder / "frames" / f"v_{video}")
    assert call(main.main, *options, "--check_data", "full") == 0
    assert call(main.main, *options) == 0
    assert record(tmp_path)["val"]["replaced_frames"] == 0


def test_skip_missing_leaves_videos_out_and_says_so(options, dataset_folder, tmp_path):
    shutil.rmtree(dataset_folder / "frames" / "train1")
    frame(dataset_folder, "val0", FRAMES).unlink()
    frame(dataset_folder, "val3", 1).unlink()
    predictions = tmp_path / "predictions.npz"
    assert call(main.main, *options, "--skip_missing", "--save_predictions", predictions) == 0

    log = (tmp_path / RUN / "log.csv").read_text()
    assert f"  train1 ({dataset_folder}/train_split.txt:2): {dataset_folder}/frames/train1\n" in log
    assert f"warning: --skip_missing leaves out 1 of the 4 videos of {dataset_folder}/train_split.txt\n" in log
    assert f"warning: --skip_missing leaves out 2 of the 5 videos of {dataset_folder}/val_split.txt\n" in log
    assert record(tmp_path)["left_out"] == {"train": 1, "val": 2}
    with np.load(predictions) as kept:
        assert kept["video"].tolist() == ["val1", "val2", "val4"]
        assert kept["labels"][:, 0].tolist() == [1, 2, 0]


def test_a_split_without_any_video_stops_the_run_in_spite_of_skip_missing(options, dataset_folder, capsys):
    for number in range(5):
        shutil.rmtree(dataset_folder / "frames" / f"val{number}")
    assert call(main.main, *options, "--skip_missing") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "no folder of frames: 5 videos"
    assert lines[-1].startswith(f"error: {dataset_folder}/val_split.txt: --skip_missing leaves no video")


def test_evaluation_checks_the_validation_split_alone(options, dataset_folder, tmp_path, capsys):
    checkpoint = tmp_path / "random.pth.tar"
    torch.save({"state_dict": UniAdaFocus(4, **SMALL).state_dict()}, checkpoint)
    evaluate = [*options, "--evaluate", "--resume", checkpoint]
    shutil.rmtree(dataset_folder / "frames" / "train1")
    assert call(main.main, *evaluate) == 0
    shutil.rmtree(dataset_folder / "frames" / "val1")
    assert call(main.main, *evaluate) == 2
    assert "error: 1 of 5 listed videos" in capsys.readouterr().err
    assert call(main.main, *evaluate, "--skip_missing") == 0
    assert "--skip_missing leaves out 1 of the 5 videos" in capsys.readouterr().out


def test_check_data_does_nothing_else(options, dataset_folder, tmp_path, capsys):
    assert call(main.main, *options, "--check_data") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        f"{dataset_folder}/train_split.txt: 4 of 4 videos are good (folder, first and last listed frame)",
        f"{dataset_folder}/val_split.txt: 5 of 5 videos are good (folder, first and last listed frame)",
    ]
    frame(dataset_folder, "val4", FRAMES).unlink()
    assert call(main.main, *options, "--check_data") == 2
    assert "error: 1 of 9 listed videos" in capsys.readouterr().err
    assert call(main.main, *options, "--check_data", "--skip_missing") == 0
    assert "val_split.txt: 4 of 5 videos are good" in capsys.readouterr().out
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_check_decodes_every_listed_frame(workers, options, dataset_folder, capsys):
    full = [*options, "--check_data", "full", "--workers", workers]
    frame(dataset_folder, "train0", FRAMES + 1).write_bytes(b"beyond what is listed")
    assert call(main.main, *full) == 0
    assert "train_split.txt: 4 of 4 videos are good (every listed frame)" in capsys.readouterr().out

    frame(dataset_folder, "train1", 3).write_bytes(b"not a picture")
    frame(dataset_folder, "train1", 5).unlink()
    cut = frame(dataset_folder, "val2", 7)
    cut.write_bytes(cut.read_bytes()[:-100])
    shutil.rmtree(dataset_folder / "frames" / "val3")
    assert call(main.main, *options, "--check_data") == 2  # of these, the quick check finds one
    assert "error: 1 of 9 listed videos" in capsys.readouterr().err
    assert call(main.main, *full, "--skip_missing") == 2  # bad frames are no missing videos
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "no folder of frames: 1 video" and lines[1].split()[0] == "val3"
    assert lines[2] == "frames that cannot be decoded: 2 videos"
    assert lines[3].endswith("train_split.txt:2): 1 of 8 frames, first image_00003.jpg: not an image; 1 is not there")
    assert "val_split.txt:3): 1 of 8 frames, first image_00007.jpg: " in lines[4]
    assert lines[5].startswith("error: 3 of 9 listed videos") and "--skip_missing" not in lines[5]


def test_replaced_frames_are_reported_after_each_epoch_and_evaluation(options, dataset_folder, tmp_path, capsys):
    for number in range(2, FRAMES):
        frame(dataset_folder, "train3", number).write_bytes(b"not a picture")
    for video in ("val1", "val4"):
        frame(dataset_folder, video, 4).unlink()  # evaluation shows 1, 3, 4, 5, 7 and 8 of eight frames in six segments
    two_epochs = [*options, "--epochs", 2, "--eval-freq", 1]
    assert call(main.main, *two_epochs) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(lines) == 4
    assert re.match(r"warning: epoch 0: \d frames of 1 videos? could not be read.*: train3$", lines[0])
    assert re.match(r"warning: evaluation: 2 frames of 2 videos could not be read.*: val1, val4$", lines[1])
    assert re.match(r"warning: epoch 1: \d frames .*: train3$", lines[2]) and lines[3] == lines[1]

    data = VideoDataset(get_dataset("mine", dataset_folder), "train", 6, 64, training=True, seed=0)
    folder = tmp_path / RUN.replace("_e1", "_e2")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for epoch, found in enumerate(records):
        data.reset_replaced()
        data.set_epoch(epoch)
        data[3]
        assert found["train"]["replaced_frames"] == data.replaced_frames.sum() > 0
        assert found["val"]["replaced_frames"] == 2


def test_two_processes_leave_out_the_same_videos_and_count_together(options, dataset_folder, tmp_path):
    with open(dataset_folder / "train_split.txt", "a") as file:
        file.write("train4,8,0\n")
    for video in ("val0", "val2"):
        frame(dataset_folder, video, 4).unlink()
    shutil.rmtree(dataset_folder / "frames" / "val1")  # so that val0 and val2 fall to different processes
    done = call_together(main.main, *options, "--skip_missing", "--workers", 1)
    assert done.stdout.count("no folder of frames: 2 videos\n") == 1
    assert re.search(r"warning: evaluation: 2 frames of 2 videos could not be read.*: val0, val2\n", done.stdout)
    found = record(tmp_path)
    assert found["left_out"] == {"train": 1, "val": 1} and found["val"]["replaced_frames"] == 2


def test_a_list_without_some_videos_keeps_the_others_as_they_were(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("ä,3,0\nbb,4,1,2\n\nccc,5,1\nd,6,0\n")
    whole = read_annotations(path, ",", 3)
    part = whole.without([0, 2])
    assert part.names() == ["bb", "d"] and len(part) == 2
    assert part.frames.tolist() == [4, 6] and part.line_numbers.tolist() == [2, 5]
    assert part.labels.tolist() == [[1, 2, -1], [0, -1, -1]]
    assert part.without([]).names() == part.names() and len(whole) == 4


def test_more_than_ten_names_are_counted():
    assert data_check.first_few([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert data_check.first_few([str(number) for number in range(13)]).endswith("8, 9 and 3 more")
