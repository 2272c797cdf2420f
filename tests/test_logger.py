"""What a run writes, and what it does not lose."""

import json

import pytest

from ops.errors import UserError
from ops.logger import RunLogger, set_earlier_run_aside


def test_lines_go_to_the_console_and_the_log(tmp_path, capsys):
    logger = RunLogger(tmp_path / "run")
    logger.line("one")
    logger.line("two", progress=True)
    assert capsys.readouterr().out == "one\ntwo\n" == (tmp_path / "run" / "log.csv").read_text()


def test_epochs_that_are_run_again_are_recorded_once(tmp_path):
    logger = RunLogger(tmp_path)
    for epoch in range(4):
        logger.epoch({"epoch": epoch, "first": True})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "fir')  # a write that was cut off
    logger.forget_epochs_from(2)
    logger.epoch({"epoch": 2, "first": False})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["epoch"], record["first"]) for record in records] == [(0, True), (1, True), (2, False)]


def test_a_logger_of_another_process_does_nothing(tmp_path, capsys):
    logger = RunLogger(tmp_path / "run", active=False)
    logger.line("one")
    logger.options({"a": 1})
    logger.epoch({"epoch": 0})
    logger.scalars("train", {"loss": 1.0}, 0)
    logger.forget_epochs_from(0)
    logger.close()
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()


def test_an_earlier_run_is_moved_aside_each_time_into_a_folder_of_its_own(tmp_path):
    for number in (1, 2):
        (tmp_path / "metrics.jsonl").write_text(str(number))
        (tmp_path / "notes.txt").write_text("the user's own")
        assert set_earlier_run_aside(tmp_path) == tmp_path / f"earlier_{number}"
    assert (tmp_path / "earlier_1" / "metrics.jsonl").read_text() == "1"
    assert (tmp_path / "notes.txt").exists() and not (tmp_path / "metrics.jsonl").exists()
    assert set_earlier_run_aside(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write logs to .*file/run: Not a directory"):
        RunLogger(tmp_path / "file" / "run")
