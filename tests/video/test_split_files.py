"""A table of labels -> class file and split files."""

import pytest

import dataset_config
from ops.data.annotations import read_annotations
from ops.utils.errors import UserError
from ops.video.frame_folders import FrameTemplate
from ops.video.split_files import CLASS_FILE, TRAIN_FILE, VAL_FILE, read_labels, write_split_files

TEMPLATE = FrameTemplate.parse("image_%05d.jpg")
VIDEOS = ["a.mp4", "b.mp4", "sub/c.d.avi", "x,y.mp4", "same.avi", "same.mp4"]


def read(tmp_path, text, videos=VIDEOS, separator=","):
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, videos, separator)


def make_frames(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (root / name / TEMPLATE.name(number)).touch()


def test_files_are_written_as_the_data_set_reads_them(tmp_path):
    labels = read(tmp_path, "video,label,split\na.mp4,run,train\nb,jump,val\nsub/c.d,run,val\na,été,train\n")
    make_frames(tmp_path / "frames", a=7, b=3, **{"sub/c.d": 12})
    summary = write_split_files(labels, tmp_path / "frames", tmp_path, TEMPLATE)
    assert (tmp_path / CLASS_FILE).read_text() == "jump\nrun\nété\n"
    assert (tmp_path / TRAIN_FILE).read_text() == "a,7,1,2\n"
    assert (tmp_path / VAL_FILE).read_text() == "b,3,0\nsub/c.d,12,1\n"
    assert (summary.classes, summary.train, summary.val, summary.left_out) == (3, 1, 2, [])

    config = dataset_config.get_dataset("mine", tmp_path)
    assert config.classes == ("jump", "run", "été") and config.metric == "map"
    rows = read_annotations(config.val_split, config.separator, config.num_classes)
    assert rows.names() == ["b", "sub/c.d"] and list(rows.frames) == [3, 12]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "classInd.txt", "frames", "labels.csv", "train_split.txt", "val_split.txt",
    ]  # fmt: skip


def test_without_a_split_column_a_fifth_of_each_class_is_drawn_for_validation(tmp_path):
    videos = [f"{label}{number}.mp4" for label in "pq" for number in range(10)] + ["r0.mp4", "s0.mp4", "s1.mp4"]
    rows = [f"{video},{video[0]}" for video in videos]
    drawn = read(tmp_path, "video,label\n" + "\n".join(rows), videos)
    in_val = {video.name for video in drawn if video.split == "val"}
    assert [sum(name[0] == label for name in in_val) for label in "pqrs"] == [2, 2, 0, 1]
    again = read(tmp_path, "video,label\n" + "\n".join(reversed(rows)), videos)
    assert {video.name for video in again if video.split == "val"} == in_val


def test_videos_without_frames_are_left_out_and_named(tmp_path):
    labels = read(tmp_path, "video,label,split\na,run,train\nb,run,val\nsub/c.d,walk,val\nsame.avi,run,train\n")
    make_frames(tmp_path / "frames", a=4, b=4, same=4)
    (tmp_path / "frames" / "same" / TEMPLATE.name(2)).rename(tmp_path / "frames" / "same" / TEMPLATE.name(9))
    summary = write_split_files(labels, tmp_path / "frames", tmp_path, TEMPLATE)
    assert dict(summary.left_out) == {"sub/c.d": "has no frames", "same": "has 4 frames, not numbered 1 to 4"}
    assert summary.classes == 2


def test_nothing_is_written_where_a_split_would_be_empty(tmp_path):
    labels = read(tmp_path, "video,label,split\na,run,train\nb,run,val\n")
    make_frames(tmp_path / "frames", a=4)
    with pytest.raises(UserError, match="left for the val split"):
        write_split_files(labels, tmp_path / "frames", tmp_path, TEMPLATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "labels.csv"]


def test_fields_can_be_separated_by_spaces(tmp_path):
    labels = read(tmp_path, "video,label,split\nx y.mp4,run,train\nb.mp4,run,val\n", ["x y.mp4", "b.mp4"], " ")
    make_frames(tmp_path / "frames", b=3, **{"x y": 5})
    write_split_files(labels, tmp_path / "frames", tmp_path, TEMPLATE, separator=" ")
    assert (tmp_path / TRAIN_FILE).read_text() == "x y 5 0\n"
    with pytest.raises(UserError, match="more than 1 label"):
        read(tmp_path, "video,label\na,run\na,walk\n", separator=" ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "labels.csv:1: no column 'video'"),
        ("video;label\na;run\n", "labels.csv:1: the columns are separated by semicolons"),
        ("video\tlabel\na\trun\n", "labels.csv:1: the columns are separated by tabs"),
        ("video,label,video\na,run,b\n", "labels.csv:1: column 'video' comes more than once"),
        ("video,label\na,run, fast\n", "labels.csv:2: more fields than columns"),
        ("video,label\na,run\nb,walk\n", "labels.csv: leaves no video for the val split"),
        ("video,label,split\na,run,train\nb,run,train\n", "labels.csv: leaves no video for the val split"),
        ("video,label,split\na,run,val\nb,run,val\n", "labels.csv: leaves no video for the train split"),
        ("video,split\na,train\n", "labels.csv:1: no column 'label'"),
        ("video,label\n", "names no video"),
        ("video,label\na,run\nzebra.mp4,run\n", "labels.csv:3: no video 'zebra.mp4'"),
        ("video,label\na,\n", "labels.csv:2: video 'a' has no label"),
        ("video,label\na\n", "labels.csv:2: video 'a' has no label"),
        ("video,label\n,run\n", "labels.csv:2: no video named"),
        ('video,label\n"x,y",run\n', "labels.csv:2: the split file cannot hold the name 'x,y'"),
        ('video,label\na,"run\nfast"\n', "goes over several lines"),
        ("video,label\na,run\na.mp4,run\n", "labels.csv:3: video 'a.mp4' already has the label 'run'"),
        ("video,label\na,1\na,2\na,3\na,4\n", "labels.csv:5: video 'a' has more than 3"),
        ("video,label,split\na,run,test\n", "labels.csv:2: split 'test' of video 'a' is unknown"),
        ("video,label,split\na,run,train\na,walk,val\n", "labels.csv:3: video 'a' is in the train split in line 2"),
        ("video,label\nsame.avi,run\nsame.mp4,walk\n", "labels.csv:3: 'same.mp4' and 'same.avi' .line 2. share"),
    ],
)
def test_what_makes_no_sense_is_named_with_its_line(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        read(tmp_path, text)


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv: cannot be read"):
        read_labels(tmp_path / "absent.csv", VIDEOS)
    (tmp_path / "latin.csv").write_bytes(b"video,label\na,caf\xe9\n")
    with pytest.raises(UserError, match="is not UTF-8"):
        read_labels(tmp_path / "latin.csv", VIDEOS)


def test_a_byte_order_mark_and_other_columns_do_no_harm(tmp_path):
    labels, _ = read(tmp_path, "\ufeffurl,video,label\nhttp://x,a.mp4, run \n,b,run\n")
    assert (labels.name, labels.labels) == ("a", ["run"])


@pytest.mark.parametrize(
    ("header", "rest"), [("Video,Label,Split", ""), (" video, LABEL ,split ", ""), ("\ufeffVIDEO,label,Split,,", ",,")]
)
def test_headers_and_splits_are_read_in_any_letters_and_empty_rows_passed_over(tmp_path, header, rest):
    rows = ["a,run,Train", ",,", "b,run,validation", " ,,", ",,,,", "same.avi,walk,VAL"]
    labels = read(tmp_path, "".join(f"{row}{rest}\n" for row in [header, *rows]))
    assert [(one.name, one.split) for one in labels] == [("a", "train"), ("b", "val"), ("same", "val")]
