"""docs/DATA.md's way from videos to a checked dataset and into a training run, word for word, on three small videos."""

import re
import shlex
from pathlib import Path

import pytest

import main
from dataset_config import BUILT_IN
from tests.docs import commands, document, fences, without_digits
from tests.shared import SMALL_OPTIONS, call, run_forked
from tests.videos import make_video

RATE, SECONDS = 10, 4  # of the small videos
VIDEOS = ("cooking/pasta", "cooking/soup", "sawing")
PLACEHOLDER = re.compile(r"PATH_TO_[A-Z]+|LABELS\.csv")


@pytest.fixture(scope="module")
def section() -> str:
    """All but the toy dataset."""
    return document("docs/DATA.md").partition("\n## The toy dataset\n")[0]


@pytest.fixture(scope="module")
def prepared(section, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder in which all commands of the section have run, in their order, and what each printed."""
    work = tmp_path_factory.mktemp("docs")
    (table,) = fences(section, "csv")
    (work / "LABELS.csv").write_text(table)
    for row in table.splitlines()[1:]:
        make_video(work / "PATH_TO_VIDEOS" / row.split(",")[0], frames=RATE * SECONDS, rate=RATE)
    printed = {}
    for command in commands(section):
        arguments = shlex.split(PLACEHOLDER.sub(lambda name: str(work / name[0]), command))
        assert arguments.pop(0) == "python"
        printed[command] = run_forked(*arguments).stdout
    return work, printed


def test_every_command_ends_with_the_line_that_the_section_shows(section, prepared):
    work, printed = prepared
    shown = {without_digits(line) for text in fences(section) for line in text.splitlines()}
    for command, output in printed.items():
        last = without_digits(output.splitlines()[-1]).replace(f"{without_digits(str(work))}/", "")
        if command.endswith("--check_data"):
            last = last.replace("folder, first and last listed frame", "every listed frame")
        assert last in shown, command
    assert len(printed) == 6


def test_the_rates_of_the_table_give_as_many_frames_as_the_published_lists_count(section, prepared):
    work, _ = prepared
    for name, folder, above in (
        ("actnet", "PATH_TO_ACTNET", "frames"),
        ("fcvid", "PATH_TO_FCVID", "frames"),
        ("minik", "PATH_TO_MINIK", "images"),
    ):
        row = next(line for line in section.splitlines() if line.startswith(f"| `{name}`"))
        _, class_file, split_files, separator, rate, *_ = (cell.strip(" `") for cell in row.strip("|").split("|"))
        (frames,) = {len(list((work / folder / above / video).iterdir())) for video in VIDEOS}
        if rate == "the video's own":
            assert frames == SECONDS * RATE
        else:
            assert rate == "1" and SECONDS <= frames <= SECONDS + 2  # ffmpeg adds up to two at the ends

        # With files as they are published, the set is complete.
        listed = "images/cooking/soup" if name == "minik" else "cooking/soup"
        (work / folder / class_file).write_text("cooking\nsawing\n")
        between = BUILT_IN[name].separator
        assert between == {"comma": ",", "space": " "}[separator.split(";")[0]]
        for split_file in split_files.split("`, `"):
            (work / folder / split_file).write_text(between.join([listed, str(frames), "0"]) + "\n")
        assert call(main.main, "--dataset", name, "--data_dir", work / folder, "--check_data", "full") == 0


def test_the_dataset_of_a_table_of_labels_can_be_trained_on(prepared, thin_networks, no_pictures):
    work, _ = prepared
    data = ["--dataset", "mine", "--data_dir", work / "PATH_TO_DATASET", "--root_log", work / "log"]
    assert call(main.main, *data, *SMALL_OPTIONS, "--epochs", 1) == 0
    assert (work / "log" / "UniAdaFocus_mine_mbv2_segment6_e1" / "ckpt.pth.tar").is_file()
