"""The toy dataset: real files in the documented formats, the same for the same settings, and never at others' cost."""

import errno
import fcntl
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from dataset_config import get_dataset
from ops.data.dataset import VideoDataset
from ops.toy import dataset as toy_dataset
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.toy.scene import CLASSES, draw_video
from ops.utils.errors import UserError
from tests.shared import call, the_error

TINY = ToySettings(num_train=4, num_val=3, num_classes=3, frames=10, height=64, width=80, seed=5)
TINIER = ToySettings(num_train=1, num_val=1, frames=8, height=48, width=64)
NAMES = ["train_0001", "train_0002", "train_0003", "train_0004", "val_0001", "val_0002", "val_0003"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset, not to be changed."""
    folder = tmp_path_factory.mktemp("toy") / "data"
    assert make_toy_dataset(folder, TINY)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tinier dataset to play with."""
    make_toy_dataset(tmp_path / "data", TINIER)
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a dataset but the videos, whose headers may hold the time."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".mp4")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_videos_of_a_version_with_other_classes_are_not_taken_for_todays(folder: Path) -> None:
    """Stills to pretrain on would show other badges under the same labels."""
    names = (folder / "classInd.txt").read_text()
    (folder / "classInd.txt").write_text(names.replace("red bars", "red stripes"))
    with pytest.raises(UserError, match=r"classInd.txt: has other classes .* --remake$"):
        make_toy_dataset(folder)
    make_toy_dataset(folder, TINIER, remake=True)
    assert (folder / "classInd.txt").read_text() == names


def test_several_processes_make_the_same(made: Path, tmp_path: Path) -> None:
    make_toy_dataset(tmp_path / "data", TINY, workers=2)
    assert contents(tmp_path / "data") == contents(made)


def test_the_split_files_are_in_activitynets_format(made: Path) -> None:
    assert (made / "classInd.txt").read_text() == "red bars\ngreen bars\nblue bars\n"
    train, val = (made / "train_split.txt").read_text(), (made / "val_split.txt").read_text()
    assert train == "train_0001,10,0\ntrain_0002,10,1\ntrain_0003,10,2\ntrain_0004,10,0\n"
    assert val == "val_0001,10,0\nval_0002,10,1\nval_0003,10,2\n"


def test_the_videos_are_real_and_have_the_frames_and_size_asked_for(made: Path) -> None:
    for name in NAMES:
        video = cv2.VideoCapture(str(made / "videos" / f"{name}.mp4"))
        shapes = []
        while (read := video.read())[0]:
            shapes.append(read[1].shape)
        assert shapes == [(64, 80, 3)] * 10


def test_every_video_has_its_frames_at_its_own_size(made: Path) -> None:
    for name in NAMES:
        frames = sorted((made / "frames" / name).glob("*.jpg"))
        assert [frame.name for frame in frames] == [f"image_{number:05d}.jpg" for number in range(1, 11)]
        assert cv2.imread(str(frames[0])).shape == (64, 80, 3)
    assert json.loads((made / "frames" / "how_made.json").read_text())["jpeg_quality"] == 90


def test_the_dataset_class_reads_it(made: Path) -> None:
    data = VideoDataset(get_dataset("toy", made), "val", num_segments=4, input_size=32, training=False)
    frames, labels, _ = data[2]
    assert len(data) == 3 and frames.shape == (4, 3, 32, 32) and labels.tolist() == [2, -1, -1]


def test_the_truth_lies_inside_the_frame_and_only_in_its_time_span(made: Path) -> None:
    truth = json.loads((made / "truth.json").read_text())
    assert sorted(truth) == NAMES
    for video in truth.values():
        first, last = video["first_frame"], video["last_frame"]
        assert 1 <= first <= last <= 10
        assert [int(number) for number in video["boxes"]] == list(range(first, last + 1)) != list(range(1, 11))
        for left, top, right, bottom in video["boxes"].values():
            assert 0 <= left < right <= 80 and 0 <= top < bottom <= 64


def test_the_truth_names_the_class_of_the_split_files(made: Path) -> None:
    classes = (made / "classInd.txt").read_text().splitlines()
    truth = json.loads((made / "truth.json").read_text())
    for split in ("train", "val"):
        for row in (made / f"{split}_split.txt").read_text().splitlines():
            name, _, label = row.split(",")
            assert truth[name]["class"] == classes[int(label)]


def test_the_frames_on_disk_show_the_badge_where_the_truth_says(made: Path) -> None:
    """The badge of class 0 is the only thing in red: its box holds it, and nothing beside the box is as red."""
    box_of = json.loads((made / "truth.json").read_text())["train_0001"]["boxes"]
    for number, (left, top, right, bottom) in box_of.items():
        frame = cv2.imread(str(made / "frames" / "train_0001" / f"image_{int(number):05d}.jpg")).astype(int)
        red = frame[..., 2] - frame[..., :2].max(axis=2) > 60
        assert red[top:bottom, left:right].mean() > 0.15
        assert red[top:bottom, left:right].sum() > 0.8 * red.sum()


@pytest.mark.parametrize("other", range(1, len(CLASSES)))
def test_videos_of_two_classes_differ_in_the_badge_alone(other: int) -> None:
    size = {"frames": 8, "height": 48, "width": 64}
    one, two = draw_video(0, (1, 2), **size), draw_video(other, (1, 2), **size)
    assert one.boxes == two.boxes
    differ = (one.frames != two.frames).any(axis=3)
    for number, (left, top, right, bottom) in one.boxes.items():
        assert differ[number - 1, top:bottom, left:right].any()
        differ[number - 1, top:bottom, left:right] = False
    assert not differ.any()


def test_distractors_share_the_patterns_but_not_the_colours_and_are_there_all_the_time() -> None:
    """Where no badge is, discs have white beside grey; with a badge there is one more disc."""
    with_badge = draw_video(0, (4,), frames=12, height=144, width=144)
    white = (with_badge.frames.min(axis=3) > 225).mean(axis=(1, 2))
    assert (white > 0.01).all()


def test_the_background_moves_in_every_frame() -> None:
    video = draw_video(0, (3,), frames=12, height=48, width=64).frames.astype(int)
    assert (np.abs(np.diff(video, axis=0)).mean(axis=(1, 2, 3)) > 1).all()


def test_classes_are_balanced_in_each_split() -> None:
    videos = list(ToySettings(num_train=20, num_val=9, num_classes=6).videos())
    for split in ("train", "val"):
        counts = Counter(label for name, label, _ in videos if name.startswith(split)).values()
        assert len(counts) == 6 and max(counts) - min(counts) <= 1


def test_no_two_videos_share_a_seed() -> None:
    seeds = [seed for _, _, seed in ToySettings(num_train=20, num_val=20).videos()]
    assert len(set(seeds)) == 40


def test_the_same_settings_give_the_same_frames_and_truth(made: Path, tmp_path: Path) -> None:
    make_toy_dataset(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(made)


def test_a_video_does_not_depend_on_how_many_others_there_are(made: Path, tmp_path: Path) -> None:
    make_toy_dataset(tmp_path / "fewer", ToySettings(**(vars(TINY) | {"num_train": 1, "num_val": 1})))
    for name in ("train_0001", "val_0001"):
        assert contents(tmp_path / "fewer" / "frames" / name) == contents(made / "frames" / name)


def test_another_seed_gives_other_videos(made: Path, tmp_path: Path) -> None:
    make_toy_dataset(tmp_path / "other", ToySettings(**(vars(TINY) | {"num_train": 1, "num_val": 1, "seed": 6})))
    assert contents(tmp_path / "other" / "frames" / "val_0001") != contents(made / "frames" / "val_0001")


def test_a_complete_folder_is_reused_as_it_is(made: Path) -> None:
    before = contents(made)
    assert make_toy_dataset(made) is False
    assert make_toy_dataset(made, TINY) is False
    assert contents(made) == before


def test_a_folder_that_may_only_be_read_is_used_and_not_remade(made: Path, monkeypatch) -> None:
    def refused(path: Path, mode: str = "r", *arguments, original=Path.open, **keywords):
        if set(mode) & set("aw"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refused)  # permissions would not stop root
    before = contents(made)
    assert make_toy_dataset(made) is False
    with pytest.raises(UserError, match="Permission denied; the toy dataset is not made"):
        make_toy_dataset(made, TINY, remake=True)
    assert contents(made) == before


def test_other_settings_are_refused_without_remake(made: Path) -> None:
    before = contents(made)
    with pytest.raises(UserError, match=r"made with seed 5, not 0.*--remake"):
        make_toy_dataset(made, ToySettings(**(vars(TINY) | {"seed": 0})))
    assert contents(made) == before


def test_remake_replaces_the_videos_and_leaves_other_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert make_toy_dataset(folder, ToySettings(num_train=2, num_val=1, frames=9, height=48, width=64), remake=True)
    assert sorted(path.name for path in (folder / "frames").iterdir() if path.is_dir()) == [
        "train_0001", "train_0002", "val_0001",
    ]  # fmt: skip
    assert (folder / "train_split.txt").read_text() == "train_0001,9,0\ntrain_0002,9,1\n"
    assert (folder / "notes.txt").read_text() == "mine"


def test_remake_without_settings_is_with_the_defaults_and_keeps_others_out_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def make(data_dir: Path, settings: ToySettings, workers: int) -> None:
        found.append((settings, workers))
        with (data_dir / toy_dataset.SETTINGS_FILE).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    monkeypatch.setattr(toy_dataset, "_make", make)
    assert make_toy_dataset(folder, remake=True, workers=3)
    assert found == [(ToySettings(), 3)]


@pytest.mark.parametrize("remake", [False, True])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, remake: bool) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "mine.jpg").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="something else"):
        make_toy_dataset(tmp_path, remake=remake)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["marked unfinished", "settings cut off", "no split file", "a video lost"])
def test_a_half_made_folder_is_made_anew(folder: Path, damage: str) -> None:
    before = contents(folder)
    settings_file = folder / toy_dataset.SETTINGS_FILE
    if damage == "marked unfinished":
        settings_file.write_text(settings_file.read_text().replace("true", "false"))
    elif damage == "settings cut off":
        settings_file.write_text(settings_file.read_text()[:10])
    elif damage == "no split file":
        (folder / "val_split.txt").unlink()
    else:
        (folder / "frames" / "val_0001").rename(folder.parent / "elsewhere")
    settings = ToySettings(num_train=1, num_val=1, frames=8, height=48, width=64)
    assert make_toy_dataset(folder, settings)
    assert contents(folder) == before


def test_a_folder_that_lost_a_video_gets_it_back_with_the_settings_it_had(folder: Path) -> None:
    before = contents(folder)
    (folder / "frames" / "val_0001").rename(folder.parent / "away")
    assert make_toy_dataset(folder)
    assert contents(folder) == before


def test_a_failure_leaves_nothing_but_the_mark_and_is_made_good_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_frames(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toy_dataset, "extract_videos", no_frames)
    with pytest.raises(UserError, match="No space left on device"):
        make_toy_dataset(tmp_path / "data", TINY)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [toy_dataset.SETTINGS_FILE]
    monkeypatch.undo()
    assert make_toy_dataset(tmp_path / "data", TINY)


def test_a_folder_of_before_there_was_a_badge_percent_is_one_with_the_default(folder: Path) -> None:
    path = folder / toy_dataset.SETTINGS_FILE
    recorded = json.loads(path.read_text())
    assert recorded["settings"].pop("badge_percent") == 21
    path.write_text(json.dumps(recorded))
    assert make_toy_dataset(folder, TINIER) is False
    with pytest.raises(UserError, match=r"made with badge_percent 21, not 50"):
        make_toy_dataset(folder, ToySettings(**(vars(TINIER) | {"badge_percent": 50})))


def test_the_badge_is_there_for_the_share_of_the_frames_that_is_asked_for(tmp_path: Path) -> None:
    settings = ToySettings(num_train=2, num_val=1, num_classes=2, frames=10, height=48, width=48, badge_percent=70)
    make_toy_dataset(tmp_path / "data", settings)
    truth = json.loads((tmp_path / "data" / "truth.json").read_text())
    assert [len(video["boxes"]) for video in truth.values()] == [7] * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_classes", 1),
        ("num_classes", 13),
        ("height", 47),
        ("frames", 2),
        ("seed", -1),
        ("badge_percent", 0),
        ("badge_percent", 101),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{name} {value} must be"):
        ToySettings(**{name: value})


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data_dir", tmp_path / "data", "--num_train", 2, "--num_val", 1, "--num_classes", 2]
    command += ["--frames", 8, "--height", 48, "--width", 64]
    assert call(toy_dataset.main, *command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("done: 2 + 1 videos of 2 classes in ")
    assert call(toy_dataset.main, *command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("already there: 2 + 1 videos")
    assert call(toy_dataset.main, *command, "--seed", 1) == 2
    assert "made with seed 0, not 1" in the_error(capsys.readouterr().err)
