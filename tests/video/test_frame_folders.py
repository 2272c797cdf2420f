"""Folders of frames: which files count, and that a stop or a failure leaves nothing half-made and removes no frames."""

import errno
import os
from pathlib import Path

import pytest

from ops.video import frame_folders
from ops.video.frame_folders import DiskFull, FrameSettings, FrameTemplate, attempt, make_frames, remove_unfinished
from tests.videos import make_video


def test_a_stop_while_the_folder_is_being_made_leaves_nothing(tmp_path, monkeypatch):
    make_video(tmp_path / "a.mp4", 3)
    mkdir = Path.mkdir

    def stopped_mkdir(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if path.name.startswith(".unfinished"):
            raise SystemExit(143)  # as the handler of a signal does, as soon as the system call is over

    monkeypatch.setattr(Path, "mkdir", stopped_mkdir)
    settings = FrameSettings(FrameTemplate.parse("image_%05d.jpg"))
    with pytest.raises(SystemExit):
        make_frames(tmp_path / "a.mp4", tmp_path / "frames" / "a", settings)
    assert os.listdir(tmp_path / "frames") == []


def test_files_whose_names_only_begin_or_end_as_those_of_frames_are_none(tmp_path):
    for name in ("image_00001.jpg", "image_123456.jpg", "image_00002.jpg.part", "an_image_00003.jpg", "image_4.png"):
        (tmp_path / name).touch()
    assert FrameTemplate.parse("image_%05d.jpg").numbers(tmp_path) == {1, 123456}


def test_a_folder_that_has_got_frames_meanwhile_is_not_removed(tmp_path):
    for name in ("empty", "filled"):
        (tmp_path / name).mkdir()
    (tmp_path / "filled" / "image_00001.jpg").touch()
    assert remove_unfinished([tmp_path / "empty", tmp_path / "filled"]) == 1
    assert (tmp_path / "filled" / "image_00001.jpg").exists()


@pytest.mark.parametrize(("number", "ends_all"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EACCES, False)])
def test_no_room_ends_the_work_on_all_videos_and_another_failure_that_on_one(number, ends_all, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(frame_folders, "make_frames", fail)
    why = attempt((tmp_path / "a.mp4", tmp_path / "a", FrameSettings()))
    assert os.strerror(number) in why and isinstance(why, DiskFull) == ends_all
