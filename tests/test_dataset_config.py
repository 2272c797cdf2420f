"""Finding a dataset's files, and saying which one is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataset_config import BUILT_IN, COMMON_TEMPLATES, find_frames, get_dataset, read_classes
from ops.utils.errors import UserError
from tests.shared import ROOT


def write_dataset(
    folder: Path,
    names: tuple[str, str, str] = ("classInd.txt", "train_split.txt", "val_split.txt"),
    rows: str = "a,10,0\n",
    template: str | None = "image_{:05d}.jpg",
) -> Path:
    (folder / "frames" / "a").mkdir(parents=True)
    if template:
        (folder / "frames" / "a" / template.format(1)).touch()
    (folder / names[0]).write_text("run\njump\n")
    for name in names[1:]:
        (folder / name).write_text(rows)
    return folder


PUBLISHED = {
    "actnet": ("classInd.txt", "actnet_train_split.txt", "actnet_val_split.txt"),
    "fcvid": ("classInd.txt", "fcvid_train_split.txt", "fcvid_val_split.txt"),
    "minik": ("minik_classInd.txt", "mini_train_videofolder.txt", "mini_val_videofolder.txt"),
    "toy": ("classInd.txt", "train_split.txt", "val_split.txt"),
}


@pytest.mark.parametrize(
    ("name", "separator", "metric"),
    [("actnet", ",", "map"), ("fcvid", ",", "map"), ("minik", " ", "accuracy"), ("toy", ",", "accuracy")],
)
def test_a_built_in_dataset_is_found_under_its_published_names(tmp_path, name, separator, metric):
    folder = write_dataset(tmp_path, PUBLISHED[name], rows=separator.join(["a", "10", "0"]))
    config = get_dataset(name, folder)
    assert (config.name, config.separator, config.metric) == (name, separator, metric)
    assert (config.classes, config.num_classes) == (("run", "jump"), 2)
    assert (config.train_split, config.val_split) == (folder / PUBLISHED[name][1], folder / PUBLISHED[name][2])
    assert (config.frames_root, config.template) == (folder / "frames", "image_{:05d}.jpg")  # as found there
    assert BUILT_IN[name].template == ("img_{:05d}.jpg" if name == "minik" else "image_{:05d}.jpg")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_published_name_comes_before_the_generic_one_which_works_as_well(tmp_path, name):
    write_dataset(tmp_path)
    assert get_dataset(name, tmp_path).train_split.name == "train_split.txt"
    for published in PUBLISHED[name]:
        (tmp_path / published).write_text("other\n")
    assert get_dataset(name, tmp_path).train_split.name == PUBLISHED[name][1]


@pytest.mark.parametrize(
    ("rows", "metric"),
    [
        ("a,10,0\n", "accuracy"),
        ("a,10,0\na,10,0,1\n", "map"),
        ("a,10,0\na,10,1,1,1,1\n", "accuracy"),  # one label, annotated four times
        ("a,10,0\na,10,1,1,0,1\n", "map"),
    ],
)
def test_the_metric_of_another_dataset_follows_its_rows_unless_it_is_given(tmp_path, rows, metric):
    write_dataset(tmp_path, rows=rows)
    assert get_dataset("mine", tmp_path).metric == metric
    assert get_dataset("mine", str(tmp_path), metric="map").metric == "map"
    assert get_dataset("mine", tmp_path, metric="accuracy").metric == "accuracy"


def test_the_template_is_detected_unless_it_is_given(tmp_path):
    write_dataset(tmp_path, template="frame{:04d}.jpg")
    assert get_dataset("toy", tmp_path).template == "frame{:04d}.jpg"
    assert get_dataset("toy", tmp_path, template="x{}.png").template == "x{}.png"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_the_first_template_wins_under_which_any_video_has_its_first_frame(tmp_path):
    templates = ("image_{:05d}.jpg", *COMMON_TEMPLATES)
    touch(tmp_path / "a" / "img_00001.jpg", tmp_path / "b" / "image_00001.jpg", tmp_path / "c" / "000001.png")
    assert find_frames([tmp_path], ["a", "b"], templates) == (tmp_path, "image_{:05d}.jpg")
    assert find_frames([tmp_path], ["nowhere", "a"], templates) == (tmp_path, "img_{:05d}.jpg")
    assert find_frames([tmp_path], ["c"], templates) == (tmp_path, "image_{:05d}.jpg")


MINIK_NAME = "images/val/air drumming/-0hr3Zo7B8k_000007_000017"


@pytest.mark.parametrize("root", ["", "frames"])
@pytest.mark.parametrize("template", ["img_{:05d}.jpg", "image_{:05d}.jpg"])
@pytest.mark.parametrize("name", ["minik", "mine"])
def test_frames_stand_in_the_data_folder_itself_or_in_frames(tmp_path, root, template, name):
    """As in the releases of Mini-Kinetics: names with folders and spaces, either root, either template."""
    separator = BUILT_IN[name].separator if name in BUILT_IN else ","
    names = PUBLISHED.get(name, PUBLISHED["toy"])
    write_dataset(tmp_path, names, rows=separator.join([MINIK_NAME, "250", "0"]))
    if not root:
        (tmp_path / "frames" / "a" / "image_00001.jpg").unlink()
        (tmp_path / "frames" / "a").rmdir()
        (tmp_path / "frames").rmdir()
    touch(tmp_path / root / MINIK_NAME / template.format(1))
    config = get_dataset(name, tmp_path)
    assert (config.frames_root, config.template) == (tmp_path / root, template)


def test_an_empty_folder_of_frames_does_not_hide_those_in_the_data_folder(tmp_path):
    write_dataset(tmp_path, rows=f"{MINIK_NAME},250,0")
    touch(tmp_path / MINIK_NAME / "img_00001.jpg")
    assert get_dataset("mine", tmp_path).frames_root == tmp_path


def test_names_with_and_without_the_prefix_of_activitynet_find_their_folder(tmp_path):
    write_dataset(tmp_path, PUBLISHED["actnet"], rows="--1DO2V4K74,6340,0\n")
    frames = tmp_path / "frames"
    touch(frames / "v_--1DO2V4K74" / "image_00001.jpg", frames / "sub" / "plain" / "image_00001.jpg")
    touch(frames / "both" / "image_00001.jpg", frames / "v_both" / "image_00001.jpg")
    config = get_dataset("actnet", tmp_path)
    found = {name: Path(config.video_folder(name)) for name in ("--1DO2V4K74", "v_--1DO2V4K74", "sub/v_plain")}
    assert found["--1DO2V4K74"] == found["v_--1DO2V4K74"] == frames / "v_--1DO2V4K74"
    assert found["sub/v_plain"] == frames / "sub" / "plain"
    assert (config.video_folder("both"), config.video_folder("v_both")) == (
        str(frames / "both"),
        str(frames / "v_both"),
    )
    assert config.video_folder("absent") == str(frames / "absent")


@pytest.mark.parametrize("missing", ["classInd.txt", "train_split.txt", "val_split.txt", "frames"])
def test_a_missing_file_is_named_with_its_folder(tmp_path, missing):
    folder = write_dataset(tmp_path / "data")
    (folder / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as raised:
        get_dataset("mine", folder)
    message = str(raised.value)
    assert missing in message and str(folder) in message and "'mine' (not built in" in message and "minik" in message
    with pytest.raises(UserError, match=missing) as raised:
        get_dataset("actnet", folder)
    assert ("actnet_" in str(raised.value)) == ("split" in missing)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"data_dir": "nowhere"}, "nowhere: no such data folder"),
        ({"data_dir": "~nobody9/data"}, "~nobody9/data: no such data folder"),
        ({"metric": "top5"}, "metric 'top5' is unknown"),
        ({"template": "frame.jpg"}, "does not number frames"),
        ({"template": "{:05d}_{}.jpg"}, "does not number frames"),
        ({"template": "{:0999999999d}.jpg"}, "does not number frames"),  # took 17 GB
        ({"template": "{:99999999999d}"}, "does not number frames"),
        ({"template": "{:05d}" + 300 * "x"}, "of 255 bytes at most"),
        ({"template": "../{:05d}.jpg"}, "does not number frames"),
        ({"name": "../up"}, "'../up' cannot be used"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused(tmp_path, arguments, what):
    write_dataset(tmp_path)
    with pytest.raises(UserError, match=what):
        get_dataset(**{"name": "toy", "data_dir": tmp_path, **arguments})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("run\njump\n", ("run", "jump")),
        ("\ufeffrun\r\nhigh jump\r\n\r\n\n", ("run", "high jump")),
        ("0 run\n1 jump", ("run", "jump")),
        ("1,run\n2,\tjump, high\n", ("run", "jump, high")),
        ("0,Applying sunscreen\n1,Arm wrestling\n", ("Applying sunscreen", "Arm wrestling")),  # ActivityNet's
        ("id,name\r\n0,abseiling\r\n1,air drumming\r\n", ("abseiling", "air drumming")),  # Kinetics'
        ("Class_ID\tClass Name\n1\trun\n2\tjump\n", ("run", "jump")),
        ("0,a\n1,b\n10,k\n2,c\n3,d\n4,e\n5,f\n6,g\n7,h\n8,i\n9,j\n", tuple("abcdefghijk")),  # sorted as text
        ("2 jump\n1 run\n3 swim\n", ("run", "jump", "swim")),
        ("1 star\n2 stars\n3 stars\n", ("1 star", "2 stars", "3 stars")),
        ("5 stars\n4 stars\n3 stars\n2 stars\n1 star\n", ("5 stars", "4 stars", "3 stars", "2 stars", "1 star")),
        ("3D printing\n2D drawing\n", ("3D printing", "2D drawing")),
        ("100 m\n200 m\n", ("100 m", "200 m")),
        ("label,name\nrun\njump\n", ("label,name", "run", "jump")),
        ("id,name\n", ("id,name",)),
        ("2 run\n3 jump\n", ("2 run", "3 jump")),
        ("1 run\n3 jump\n", ("1 run", "3 jump")),
        ("0\n1\n", ("0", "1")),
        ("1 run\njump\n", ("1 run", "jump")),
    ],
)
def test_class_names_are_read_with_or_without_numbers(tmp_path, text, names):
    path = tmp_path / "classInd.txt"
    path.write_bytes(text.encode())
    assert read_classes(path) == names


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"run\n\njump\n", ":2: blank line"),
        (b"run\njump\nrun\n", ":3: class 'run' already stands in line 1"),
        (b"0,run\n1,run\n2,run\n", ":2: class 'run' already"),
        (b"0 run\n1 run\n", ":2: class 'run' already"),
        (b"id,name\n0,run\n1,run\n", ":3: class 'run' already stands in line 2"),
        (b"0,run\n1,jump\n3,swim\n", ":3: class number 3 does not go on"),
        (b"2\trun\n3\tjump\n", ":1: class number 2 does not go on"),
        (b"0,run\n2,jump\n2,swim\n1,walk\n", ":3: class number 2 does not go on"),
        (b"run\n\xff\n", ":2: not valid UTF-8"),
        (b" \n", ": the class file is empty"),
    ],
)
def test_a_wrong_class_file_is_refused_with_its_line(tmp_path, content, where):
    path = tmp_path / "classInd.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}{where}"):
        read_classes(path)


def test_a_note_says_whether_digits_before_a_space_are_labels_or_of_the_names(tmp_path):
    write_dataset(tmp_path)
    for text, note in (
        ("1 ApplyEyeMakeup\n2 ApplyLipstick\n", "taken as labels"),
        ("1 star\n2 stars\n3 stars\n", "taken as parts of the class names"),
        ("0 run\n1 jump\n3 swim\n", "taken as parts of the class names"),
    ):
        (tmp_path / "classInd.txt").write_text(text)
        (said,) = get_dataset("mine", tmp_path).notes
        assert note in said and str(tmp_path / "classInd.txt") in said
    for text in ("run\njump\n", "0,run\n1,jump\n", "1 run\njump\n"):
        (tmp_path / "classInd.txt").write_text(text)
        assert get_dataset("mine", tmp_path).notes == ()


def test_importing_it_brings_in_neither_torch_nor_numpy():
    code = "import sys, dataset_config; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
