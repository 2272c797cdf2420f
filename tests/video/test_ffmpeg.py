"""ops/video/ffmpeg.py: what the program says of videos, and what became of a run of it."""

import shutil
import subprocess

import pytest

from ops.video import ffmpeg, opencv
from tests.videos import make_video


@pytest.mark.parametrize("lengths", [ffmpeg.stated_lengths, opencv.stated_lengths])
def test_lengths_are_in_frames_also_of_a_video_of_hours_and_beside_what_is_no_video(tmp_path, lengths):
    if lengths is ffmpeg.stated_lengths and not shutil.which("ffmpeg"):
        pytest.skip("needs the program ffmpeg")
    long, short = make_video(tmp_path / "a.avi", 400, 0.1), make_video(tmp_path / "c.avi", 30, 25)
    (tmp_path / "b.avi").write_text("hello " * 100)
    found = lengths([long, tmp_path / "b.avi", short])
    assert found == [pytest.approx((400, 0.1)), pytest.approx((30, 25))]


def test_a_run_that_was_killed_without_a_word_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "image_00001.jpg").write_bytes(b"\xff\xd8")  # cut off by that, not by a full disk
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, stderr=b""))
    assert ffmpeg.run_published(["ffmpeg"], tmp_path).problem == "ffmpeg ended with exit code -9"
