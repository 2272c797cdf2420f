"""Split files: what is read, what is left out, and which line is to blame."""

import pickle

import pytest

from ops.data.annotations import first_names, has_several_labels, read_annotations
from ops.utils.errors import UserError


@pytest.fixture
def split(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "split.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_comma_rows_hold_up_to_three_labels(split):
    read = read_annotations(split("a,10,0\nfolder/é b,300,4,2\nc,3,1,2,3\n"), ",", 5)
    assert read.names() == ["a", "folder/é b", "c"]
    assert read.frames.tolist() == [10, 300, 3]
    assert read.labels.tolist() == [[0, -1, -1], [2, 4, -1], [1, 2, 3]]
    assert (len(read), read.left_out, read.warnings) == (3, 0, ())


def test_labels_are_the_distinct_ones_sorted(split):
    """Rows as in the ActivityNet lists: a label for each time that it is annotated."""
    rows = ["v_qF38sNbBcBo,6200,73", "v_a,640,12" + ",12" * 22, "v_b,45,150,9,150,9,9", "v_c,22626,7,7"]
    read = read_annotations(split("\n".join(rows)), ",", 200)
    assert read.labels.tolist() == [[73, -1, -1], [12, -1, -1], [9, 150, -1], [7, -1, -1]]
    assert read.frames.tolist() == [6200, 640, 45, 22626]


@pytest.mark.parametrize(
    ("content", "separator", "several"),
    [
        ("a,10,0\nb,10,3,3,3\n", ",", False),
        ("a,10,0\nb,10,3,3,2\n", ",", True),
        ("a b c d 10 3\n", " ", False),
        ("a,10,3,x\n\nb,10,1, 1 \n", ",", False),
    ],
)
def test_a_label_that_is_repeated_is_one_label(split, content, separator, several):
    assert has_several_labels(split(content), separator) is several


def test_names_may_hold_spaces_where_spaces_separate(split):
    read = read_annotations(split("high jump/v 7 12 100 3\nrun/w\t50 0\n"), " ", 4)
    assert read.names() == ["high jump/v 7 12", "run/w"]
    assert (read.frames.tolist(), read.labels[:, 0].tolist()) == ([100, 50], [3, 0])


def test_byte_order_mark_line_endings_and_blank_lines_do_not_matter(split):
    read = read_annotations(split("\ufeffa,10,0\r\n\r\n  \nb, 20 ,1\r\n\n"), ",", 2)
    assert read.names() == ["a", "b"]
    assert (read.frames.tolist(), read.line_numbers.tolist()) == ([10, 20], [1, 4])


def test_empty_fields_at_the_end_do_not_matter(split):
    """As a spreadsheet writes rows of unequal length."""
    path = split("v_abc,120,3,,\r\nv_def,90,1, , \r\nv_ghi,80,1,2,\r\n")
    assert read_annotations(path, ",", 4).labels.tolist() == [[3, -1, -1], [1, -1, -1], [1, 2, -1]]
    assert has_several_labels(path, ",") and not has_several_labels(split("a,9,1,,\n"), ",")
    assert first_names(split("a,9,1,,\nb,9,,\n"), ",", limit=2) == ["a"]


def test_rows_with_few_frames_are_left_out_and_counted(split):
    path = split("a,2,0\nb,3,1\nc,0,0\n")
    read = read_annotations(path, ",", 2)
    assert (read.names(), read.left_out, read.line_numbers.tolist()) == (["b"], 2, [2])
    assert read_annotations(path, ",", 2, min_frames=0).names() == ["a", "b", "c"]


def test_a_repeated_video_stays_with_a_warning(split):
    path = split("a,10,0\nb,10,0\na,10,1\n" + "b,9,1\n" * 6)
    read = read_annotations(path, ",", 2)
    assert len(read) == 9
    assert read.warnings == (
        f"{path}: 7 rows repeat a video listed above them (lines 3, 4, 5, 6, 7, ...); all are kept",
    )


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("b,10", "2 fields"),
        ("b,10,0,1,2,3", "4 distinct labels"),
        ("b,10," + "0,1," * 20 + "2,3", "4 distinct labels"),
        ("b 10 0", "1 fields"),
        ("b,ten,0", "'ten' is not a whole number"),
        ("b,10,-1", "'-1' is not a whole number"),
        ("b,-10,0", "'-10' is not a whole number"),
        ("b,10,1_0", "'1_0' is not a whole number"),
        ("b,10,", "2 fields"),
        ("b,10,,3", "'' is not a whole number"),
        (",,", "1 fields"),
        ("b," + "9" * 5000 + ",0", "9... is not|9...' is not a whole number in range"),
        ("b,10000001,0", "10000001 frames is more than"),
        ("b,10,5", r"label 5 is outside 0..4, since the class file lists 5 classes"),
        (",10,0", "name is empty"),
        ("/etc,10,0", "'/etc' is absolute"),
        ("C:\\videos,10,0", "is absolute"),
        ("../b,10,0", "'..' part"),
        ("a/../../b,10,0", "'..' part"),
        ("a\\..\\b,10,0", "'..' part"),
        (".,10,0", "'..' part"),
        ("b\0,10,0", "NUL"),
        ("b" * 70_000 + ",10,0", "longer than 65536 bytes"),
        (b"\xff\xfe,10,0", "not valid UTF-8"),
    ],
)
def test_a_wrong_row_is_refused_with_file_and_line(split, row, what):
    path = split(b"a..b,10,0\n\n" + (row if isinstance(row, bytes) else row.encode()) + b"\nc,10,0\n")
    with pytest.raises(UserError, match=what) as raised:
        read_annotations(path, ",", 5)
    message = str(raised.value)
    assert message.startswith(f"{path}:3: ")
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("row", ["b 10", "b ten 0", "b 10 5", "b,10,0", "../b 10 0"])
def test_a_wrong_row_between_spaces_is_refused_too(split, row):
    with pytest.raises(UserError, match=r"split.txt:1: "):
        read_annotations(split(row), " ", 5)


def test_a_split_without_videos_is_refused(split, tmp_path):
    with pytest.raises(UserError, match="no video with at least 3 frames"):
        read_annotations(split("\n"), ",", 5)
    with pytest.raises(UserError, match="all 1 rows have fewer"):
        read_annotations(split("a,1,0\n"), ",", 5)
    with pytest.raises(UserError, match=r"nowhere.txt: cannot be read"):
        read_annotations(tmp_path / "nowhere.txt", ",", 5)


def test_names_are_found_one_by_one_and_never_outside(split):
    read = read_annotations(split("a,10,0\nbcd,10,0\n"), ",", 5)
    assert (read.name(0), read.name(1)) == ("a", "bcd")
    for index in (-1, 2):
        with pytest.raises(IndexError):
            read.name(index)


def test_a_large_split_travels_to_a_worker_as_a_few_arrays(split):
    read = read_annotations(split("".join(f"video{n},{n + 3},{n % 5}\n" for n in range(5000))), ",", 5)
    assert len(pickle.dumps(read)) < 5000 * 60
    copy = pickle.loads(pickle.dumps(read))
    assert (copy.name(4999), copy.frames[4999], copy.labels[4999, 0]) == ("video4999", 5002, 4)


def test_the_first_names_come_without_reading_on(split):
    path = split("\ufeffa,10,0\n../b,10,0\nc,10\nd,10,0\ne,10,0\n" + "\0" * 10)
    assert first_names(path, ",", limit=4) == ["a", "d"]
