"""Folders of frames: a stop at any moment leaves nothing half-made."""

import os
from pathlib import Path

import pytest

from ops.video.frame_folders import FrameSettings, FrameTemplate, make_frames
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
