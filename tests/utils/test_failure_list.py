"""ops/utils/failure_list.py: one line for each video, whatever is in its name, while something is wrong with it."""

import pytest

from ops.utils.failure_list import FAILED_FILE, escape, listed, write_failures

ODD = ["a\tb.mp4", "a\nb.mp4", "a\\tb.mp4", "latin\udce9.mp4", "plain.mp4"]


@pytest.fixture
def folder(tmp_path):
    """Odd names listed; the videos are in the folder itself."""
    try:
        for name in ODD:
            (tmp_path / name).touch()
    except (OSError, UnicodeError):
        pytest.skip("this file system takes plain names only")
    write_failures(tmp_path, [(name, "torn\nin\ttwo") for name in ODD], [], tmp_path)
    return tmp_path


def lines_of(folder):
    return (folder / FAILED_FILE).read_text(errors="surrogateescape").splitlines()


def test_each_is_one_line_with_one_tab(folder):
    assert sorted(lines_of(folder)) == sorted(f"{escape(name)}\ttorn\\nin\\ttwo" for name in ODD)
    assert len(set(map(escape, ODD))) == len(ODD)


def test_lines_of_earlier_runs_stay_until_the_video_is_settled_or_gone(folder):
    (folder / "plain.mp4").unlink()
    (folder / "new.mp4").touch()
    write_failures(folder, [("new.mp4", "torn")], ["new.mp4", "a\tb.mp4"], folder)
    kept = {line.split("\t")[0] for line in lines_of(folder)}
    assert kept == {"new.mp4", *(escape(name) for name in ODD[1:4])}
    write_failures(folder, [], ["new.mp4", *ODD], folder)
    assert not (folder / FAILED_FILE).exists()


def test_those_with_a_kind_of_reason_can_be_listed(tmp_path):
    assert listed(tmp_path, ("short:",)) == set()
    reasons = {"a.mp4": "short: 9 of 10", "b\t.mp4": "damaged: x", "c.mp4": "is an empty file", "short: d": "torn"}
    write_failures(tmp_path, list(reasons.items()), [], tmp_path)
    assert listed(tmp_path, ("short:", "damaged:")) == {"a.mp4", "b\\t.mp4"}
