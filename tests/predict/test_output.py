"""ops/predict/output.py: predictions as a table, as JSON and as CSV."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from ops.predict.output import CSV_COLUMNS, Table, as_csv, as_json, check_writable, deliver
from ops.predict.predictor import Failure, Prediction
from ops.utils.errors import UserError

NAMES = ("jumping, high", 'the "long" jump', "café")
STRANGE = Path("a b'\"\n,.mp4")
OUTCOMES = [
    Prediction(Path("clips/a.mp4"), [2, 0], [0.9, 0.06], 1, 12.3456, 0.125, files={"image": Path("pictures/a.png")}),
    Failure(Path("clips/bad.mp4"), "is an empty file"),
    Prediction(STRANGE, [1, 2], [0.5, 0.25], 16, 27.2, 0.375),
]


def test_the_table_has_a_row_per_class_in_straight_columns():
    table = Table([outcome.path for outcome in OUTCOMES], NAMES, 16)
    lines = [table.head(), *table.rows(OUTCOMES[0]).splitlines(), *table.rows(OUTCOMES[2]).splitlines()]
    assert [line.split() for line in lines[:3]] == [
        ["video", "patches", "GFLOPs", "seconds", "probability", "class"],
        ["clips/a.mp4", "1", "of", "16", "12.35", "0.12", "90.0", "%", "café"],
        ["6.0", "%", "jumping,", "high"],
    ]
    assert len(lines) == 5 and lines[3].startswith("a b'\"\\n,.mp4 ")
    column = lines[0].index("class")
    assert [line[column:] for line in lines] == ["class", NAMES[2], NAMES[0], NAMES[1], NAMES[2]]


def test_the_last_line_says_what_all_took():
    table = Table([], NAMES, 16)
    assert table.foot(OUTCOMES) == "2 videos, 1 failed; on average 8.5 patches, 19.77 GFLOPs, 0.25 s"
    assert table.foot(OUTCOMES[1:2]) == "0 videos, 1 failed"


def test_a_long_name_does_not_widen_every_row():
    long = Path("x" * 200)
    table = Table([long, Path("a")], NAMES, 16)
    assert len(table.head()) < 120
    assert table.rows(Prediction(long, [0], [1.0], 0, 1.0, 1.0)).startswith("x" * 200 + "  ")


def test_no_cell_of_the_csv_is_a_formula():
    outcomes = [
        Prediction(Path("=cmd|' /C calc'!A0.mp4"), [0], [1e-9], 1, 1.0, 1.0), Failure(Path("@a.mp4"), "-1 frames")
    ]  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(as_csv(outcomes, ["+1"]).decode())))
    assert [row["video"] for row in rows] == ["'=cmd|' /C calc'!A0.mp4", "'@a.mp4"]
    assert (rows[0]["class"], rows[0]["probability"], rows[1]["error"]) == ("'+1", "0.000000", "'-1 frames")


def test_json_is_a_list_with_an_object_for_each_outcome():
    objects = json.loads(as_json(OUTCOMES, NAMES))
    assert objects[0] == {
        "video": "clips/a.mp4",
        "predictions": [
            {"class": "café", "label": 2, "probability": 0.9},
            {"class": "jumping, high", "label": 0, "probability": 0.06},
        ],
        "patches": 1,
        "gflops": 12.3456,
        "seconds": 0.125,
        "image": "pictures/a.png",
    }
    assert objects[1] == {"video": "clips/bad.mp4", "error": "is an empty file"}
    assert objects[2]["video"] == str(STRANGE)


def test_csv_has_a_row_for_each_class_and_each_failure():
    rows = list(csv.DictReader(io.StringIO(as_csv(OUTCOMES, NAMES).decode(), newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == 5
    assert rows[1] == {
        "video": "clips/a.mp4", "rank": "2", "class": "jumping, high", "label": "0", "probability": "0.060000",
        "patches": "1", "gflops": "12.3456", "seconds": "0.1250", "error": "",
    }  # fmt: skip
    assert rows[2]["error"] == "is an empty file" and rows[2]["class"] == ""
    assert rows[3]["video"] == str(STRANGE) and rows[3]["class"] == NAMES[1]


def test_names_that_are_not_utf8_come_back():
    name = os.fsdecode(b"caf\xe9.mp4")
    outcomes = [Failure(Path(name), "gone")]
    assert os.fsencode(json.loads(as_json(outcomes, NAMES))[0]["video"]) == b"caf\xe9.mp4"
    assert b"caf\xe9.mp4" in as_csv(outcomes, NAMES)


def test_content_goes_to_a_file_or_to_standard_output(tmp_path, capfdbinary):
    deliver(b"caf\xc3\xa9\n", str(tmp_path / "a.json"))
    assert (tmp_path / "a.json").read_bytes() == b"caf\xc3\xa9\n"
    deliver(b"caf\xc3\xa9\n", "-")
    assert capfdbinary.readouterr().out == b"caf\xc3\xa9\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_target_that_cannot_be_written_is_found_before_the_work(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        check_writable(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        check_writable(str(tmp_path / "absent" / "a.json"))
    for target in ("-", str(tmp_path / "a.json")):
        check_writable(target)
    assert list(tmp_path.iterdir()) == []
