"""ops/video/clip_writer.py: clips that browsers play, where ffmpeg has the encoder."""

import subprocess

import cv2
import numpy as np
import pytest

from ops.video import clip_writer
from ops.video.clip_writer import ClipWriter, makes_h264
from ops.video.errors import VideoError


def write(path, size=(64, 48)):
    writer = ClipWriter(path, 10, size)
    for level in (50, 200, 100):
        writer.write(np.full((size[1], size[0], 3), (level, 0, 0), np.uint8))
    writer.close()


@pytest.mark.parametrize("h264", [True, False])
def test_pictures_come_back(tmp_path, h264, monkeypatch):
    if h264 and not makes_h264():
        pytest.skip("needs the program ffmpeg with libx264")
    monkeypatch.setattr(clip_writer, "makes_h264", lambda: h264)
    write(tmp_path / "a %d.mp4")
    capture = cv2.VideoCapture(str(tmp_path / "a %d.mp4"))
    frames = [capture.read()[1] for _ in range(4)]
    assert frames[3] is None and capture.get(cv2.CAP_PROP_FPS) == 10
    assert [frame[..., 2].mean() for frame in frames[:3]] == pytest.approx([50, 200, 100], abs=6)


@pytest.mark.skipif(not makes_h264(), reason="needs the program ffmpeg with libx264")
def test_pictures_that_the_encoder_refuses_are_an_error_of_this_video(tmp_path):
    with pytest.raises(VideoError, match=r"ffmpeg does not encode it \(.*(width|dimensions|21600x64).*\)"):
        write(tmp_path / "a.mp4", size=(21600, 64))


@pytest.mark.skipif(not makes_h264(), reason="needs the program ffmpeg with libx264")
def test_clips_are_h264_in_a_form_that_browsers_take(tmp_path):
    write(tmp_path / "a.mp4")
    entries = ["-show_entries", "stream=codec_name,pix_fmt", "-of", "csv=p=0"]
    found = subprocess.run(["ffprobe", "-v", "error", *entries, tmp_path / "a.mp4"], capture_output=True, text=True)
    assert found.stdout.strip() == "h264,yuv420p"
    assert (tmp_path / "a.mp4").read_bytes().index(b"moov") < (tmp_path / "a.mp4").read_bytes().index(b"mdat")


@pytest.mark.parametrize("h264", [True, False])
def test_a_file_that_cannot_be_written_is_an_error(tmp_path, h264, monkeypatch):
    if h264 and not makes_h264():
        pytest.skip("needs the program ffmpeg with libx264")
    monkeypatch.setattr(clip_writer, "makes_h264", lambda: h264)
    with pytest.raises(OSError, match=r"No such file|makes no MP4"):
        write(tmp_path / "nowhere" / "a.mp4")
