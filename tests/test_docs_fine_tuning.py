"""docs/TRAINING.md: from a folder of videos to a fine-tuned model and a picture, word for word, with a thin network."""

import csv
import json
import shlex

import cv2
import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops.toy.scene import CLASS_NAMES, draw_video
from tests.docs import commands as commands_of
from tests.docs import document, section
from tests.shared import ROOT, SMALL, SMALL_OPTIONS, run_forked
from tests.thin import thin_networks

PUBLISHED_RUN, SMALL_RUN = "UniAdaFocus_mine_mbv2_segment48_e20", "UniAdaFocus_mine_mbv2_segment6_e1"
SMALLER = [*SMALL_OPTIONS, "--epochs", "1"]  # options that come last win
TAKES_SIZES = ("main.py", "test_early_exit_uni_adafocus.py")


@pytest.fixture(scope="module")
def commands() -> list[str]:
    return commands_of(section(document("docs/TRAINING.md"), "Fine-tuning on your own videos"))


@pytest.fixture(scope="module")
def work(commands, tmp_path_factory):
    """A folder like the repository's, in which all commands of the section have run."""
    work = tmp_path_factory.mktemp("fine_tuning")
    for name in ("main.py", "predict.py", "test_early_exit_uni_adafocus.py", "ops"):
        (work / name).symlink_to(ROOT / name)
    _write_videos(work)
    (work / "ckpt").mkdir()
    with thin_networks():
        published = UniAdaFocus(7, **SMALL).state_dict()
        torch.save(
            {"state_dict": {f"module.{name}": value for name, value in published.items()}},
            work / "ckpt" / "actnet_p128.pth.tar",
        )
        for command in commands:
            words = shlex.split(command.replace(PUBLISHED_RUN, SMALL_RUN))
            assert words.pop(0) == "python"
            done = run_forked(*words, *(SMALLER if words[0] in TAKES_SIZES else []), cwd=work)
            (work / f"{words[0]}.out").write_text(done.stdout)
    return work


def _write_videos(work) -> None:
    rows = [("video", "label", "split")]
    for number in range(6):
        video, label = f"video {number}.avi", number % 2
        frames = draw_video(label, (3, number), frames=12, height=64, width=80).frames
        path = work / "PATH_TO_VIDEOS" / video
        path.parent.mkdir(exist_ok=True)
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12, (80, 64))
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        rows.append((video, CLASS_NAMES[label], "train" if number < 4 else "val"))
    with open(work / "LABELS.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_the_commands_end_in_a_model_its_thresholds_and_a_picture_of_each_video(work):
    run = work / "log" / SMALL_RUN
    made = {path.name for path in run.iterdir()}
    assert {"ckpt.best.pth.tar", "per_class.csv", "curves.png", "early_exit_confidence.json", "early_exit.png"} <= made
    assert "newly initialised: " in (run / "log.csv").read_text()
    assert len(json.loads((run / "early_exit_confidence.json").read_text())["points"]) == 19
    assert (work / "predict.py.out").read_text().splitlines()[-1].startswith("6 videos, 0 failed")
    pictures = sorted((work / "pictures").iterdir())
    assert len(pictures) == 6 and all(cv2.imread(str(path)) is not None for path in pictures)


def test_the_section_has_every_step(commands):
    steps = [shlex.split(command)[1:3] for command in commands]
    assert [step[0] for step in steps] == ["-m", "main.py", "main.py", "test_early_exit_uni_adafocus.py", "predict.py"]
