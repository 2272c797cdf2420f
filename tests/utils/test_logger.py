"""What a run writes, and what it does not lose."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from ops.report.style import new_figure
from ops.utils.errors import UserError
from ops.utils.logger import RunLogger, set_earlier_run_aside
from tests.shared import ROOT


def test_lines_go_to_the_console_and_the_log(tmp_path, capsys):
    logger = RunLogger(tmp_path / "run")
    logger.line("one")
    assert not (tmp_path / "run").exists()  # a run that ends with an error before it has begun leaves nothing
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".curves.png.123.writing").touch()  # of a killed run
    logger.open("log_eval.csv")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {".lock", "log_eval.csv"}
    logger.line("two", progress=True)
    assert capsys.readouterr().out == "one\ntwo\n" == (tmp_path / "run" / "log_eval.csv").read_text()


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


def test_epochs_that_stay_keep_their_lines_to_the_letter(tmp_path):
    path, last = tmp_path / "metrics.jsonl", '{"epoch": 1, "train": {"loss": NaN, "replaced_frames": 0}}'
    first = '{"epoch": 0, "lr": 1, "train": {"loss": 2.50, "replaced_frames": 0}, "by hand": "\u00e9"}\n'
    path.write_text(first + last)  # whose line does not end
    RunLogger(tmp_path).forget_epochs_from(2)
    assert path.read_text() == first + last + "\n"


def test_a_damaged_record_is_named_before_a_run_goes_on(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1, \0\n{"epoch": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: not a record"):
        RunLogger(tmp_path).forget_epochs_from(2)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 3


def test_a_logger_of_another_process_does_nothing(tmp_path, capsys):
    logger = RunLogger(tmp_path / "run", active=False)
    logger.line("one")
    logger.options({"a": 1})
    logger.epoch({"epoch": 0})
    logger.scalars("train", {"loss": 1.0}, 0)
    logger.figure("inspection/1", Figure(), 0)
    logger.histogram("frames/weight", np.zeros(3), 0)
    logger.text("classes/per_class", "| a |", 0)
    logger.forget_epochs_from(0)
    logger.close()
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()


def test_an_earlier_run_is_moved_aside_each_time_into_a_folder_of_its_own(tmp_path):
    of_runs = ["log_eval.csv", "ckpt.best.pth.tar", "policy_report.json", "early_exit_entropy.csv", "exit_logits.npz"]
    for number in (1, 2):
        for name in ("metrics.jsonl", *of_runs):
            (tmp_path / name).write_text(str(number))
        (tmp_path / "notes.txt").write_text("the user's own")
        assert set_earlier_run_aside(tmp_path) == tmp_path / f"earlier_{number}"
    assert (tmp_path / "earlier_1" / "metrics.jsonl").read_text() == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "earlier_1", "earlier_2"}
    assert set_earlier_run_aside(tmp_path) is None


@contextlib.contextmanager
def another_run_in(folder):
    """Another process that writes to a run's folder; yields its number. Its child, as data workers may, outlives it."""
    (ready, tell), (waiting, over) = os.pipe(), os.pipe()
    process = os.fork()
    if process == 0:
        os.close(over)
        logger = RunLogger(folder)
        logger.open()
        os.fork()
        os.write(tell, b"1")
        os.read(waiting, 1)  # until all is over
        os._exit(0)
    os.read(ready, 1)
    yield process
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    RunLogger(folder).open(anew=True)
    for handle in (ready, tell, waiting, over):
        os.close(handle)


def test_a_second_run_leaves_the_folder_alone_as_long_as_the_first_one_lives(tmp_path):
    with another_run_in(tmp_path) as process:
        (tmp_path / "metrics.jsonl").write_text("of the first")
        for name in ("log.csv", "log_eval.csv"):
            with pytest.raises(UserError, match=rf"{tmp_path} is in use by another run \(process {process} on "):
                RunLogger(tmp_path).open(name, anew=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "log.csv", "metrics.jsonl"]
    assert (tmp_path / "earlier_1" / "metrics.jsonl").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write logs to .*file/run: Not a directory"):
        RunLogger(tmp_path / "file" / "run").open()


FULL_DISK = """
import resource, sys
from pathlib import Path
from ops.utils.errors import run_entry
from ops.utils.logger import RunLogger

def main():
    logger = RunLogger(Path(sys.argv[1]))
    logger.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        for step in range(1000):
            if sys.argv[2] == "line":
                logger.line("a line of the log")
            else:
                logger.scalars("train", {"loss": 1.0}, step)
    finally:
        logger.close()

run_entry(main)
"""


@pytest.mark.parametrize("kind", ["line", "scalars"])
def test_a_disk_that_fills_up_while_logging_is_one_error(kind, tmp_path):
    (tmp_path / "log.py").write_text(FULL_DISK)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "log.py", tmp_path / "run", kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(name in error for name in (str(tmp_path / "run"), "File too large", "--root_log"))


def test_a_figure_keeps_its_colours_in_tensorboard(tmp_path, monkeypatch):
    logger, added = RunLogger(tmp_path), []
    monkeypatch.setattr(logger, "_add", lambda *given, **how: added.append(given))
    figure = new_figure(0.1, 0.2, 100)
    figure.set_facecolor("blue")
    logger.figure("inspection/1", figure, 7)
    ((kind, name, pixels, step),) = added
    assert (kind, name, pixels.shape, step) == ("image", "inspection/1", (20, 10, 3), 7)
    assert pixels[0, 0].tolist() == [0, 0, 255]


def test_only_a_training_hides_earlier_figures_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name, first_epoch, prefix in (("log.csv", 0, "train"), ("log_eval.csv", None, "early_exit")):
        logger = RunLogger(tmp_path)
        logger.open(name, first_epoch)
        logger.scalars(prefix, {"metric": 1.0}, 1)
        logger.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("train/metric", "early_exit/metric"):
        assert [(scalar.step, scalar.value) for scalar in events.Scalars(name)] == [(1, 1.0)]


def test_names_that_are_not_utf_8_are_logged_with_backslashes(tmp_path):
    log = RunLogger(tmp_path, active=True)
    log.line("frames in caf\udce9")
    log.open("log.csv")
    log.options({"data_dir": "caf\udce9"})
    log.close()
    assert (tmp_path / "log.csv").read_text() == "frames in caf\\udce9\n"
    assert (tmp_path / "args.txt").read_text() == "data_dir: caf\\udce9\n"
