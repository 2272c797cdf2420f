"""Plain videos read with OpenCV; what else there is is refused. The interlaced files were made by ffmpeg."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ops.video import opencv
from ops.video.errors import INSTALL_FFMPEG, NotPlain, VideoError
from ops.video.opencv import PlainVideo
from tests.shared import ROOT
from tests.videos import frame_number, make_video, set_durations, set_edit

INTERLACED = [Path(__file__).parent / name for name in ("interlaced_mpeg2.mkv", "interlaced_h264.mp4")]


def frame_numbers(path, frame_rate=None):
    """The source frames that `path` gives, one number per frame given."""
    video = PlainVideo(path, frame_rate)
    given = [frame_number(image) for image in video.read(range(1, len(video) + 1))]
    return given


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v"])
@pytest.mark.parametrize("rate", [25.0, 30 / 1.001])
def test_a_constant_rate_gives_every_frame_once(tmp_path, ending, rate):
    assert frame_numbers(make_video(tmp_path / f"a{ending}", 60, rate)) == list(range(60))


def test_another_rate_takes_fewer_frames(tmp_path):
    assert frame_numbers(make_video(tmp_path / "a.mp4", 90, 30), 1) == [0, 1, 26, 56, 86]
    with pytest.raises(NotPlain, match="another frame rate needs to know when its sound starts"):
        PlainVideo(make_video(tmp_path / "a.mkv", 2), frame_rate=1)


def test_pictures_keep_their_size_and_levels(tmp_path):
    path = make_video(tmp_path / "a.avi", 2, width=80, height=32)
    _, image = PlainVideo(path).read([1, 2])
    assert image.shape == (32, 80, 3)
    assert image[:, 71:].min() > 240 and image[:, :69].max() < 15


def test_a_smaller_picture_is_of_all_pixels():
    stripes = np.zeros((96, 64, 3), np.uint8)
    stripes[::2] = 255
    smaller = opencv.scaled(stripes, 32)
    assert smaller.shape == (32, 21, 3) and 80 < smaller.min() < smaller.max() < 175


def test_a_frame_that_the_decoder_leaves_out_is_noticed(tmp_path, monkeypatch):
    video, original, grabbed = PlainVideo(make_video(tmp_path / "a.mp4", 20)), opencv._call, []

    def leaving_out(function, *arguments):
        if function.__name__ == "grab":
            grabbed.append(original(function))
            if len(grabbed) != 6:
                return grabbed[-1]
        return original(function, *arguments)

    monkeypatch.setattr(opencv, "_call", leaving_out)
    with pytest.raises(NotPlain, match="damaged: frame 6 of 20 cannot be decoded"):
        list(video.read(range(1, 21)))


def test_a_name_that_is_not_utf8_can_be_read(tmp_path):
    path = tmp_path / "lat\udce9in.mp4"
    try:
        make_video(tmp_path / "a.mp4", 5).rename(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    assert frame_numbers(path) == list(range(5))


@pytest.mark.parametrize("entries", [[(20, 1), (1, 6), (19, 1)], [(20, 2), (20, 1)]])
def test_a_rate_that_varies_is_refused(tmp_path, entries):
    path = make_video(tmp_path / "a.mp4", 40, 10)
    set_durations(path, entries)
    with pytest.raises(NotPlain, match="its frame rate varies; install ffmpeg"):
        PlainVideo(path)


OLDER_OPENCV = "its frame rate varies"  # what 4.11 says of a file that hides its last frames


def test_hidden_frames_are_noticed(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_edit(path, frames=30, skipped=12)
    with pytest.raises(NotPlain, match="cut short: the header promises 60 frames"):
        PlainVideo(path)
    path = make_video(tmp_path / "b.mp4", 60, 10)
    set_edit(path, frames=50, skipped=5)
    with pytest.raises(NotPlain, match=rf"frame \d+ of 60 cannot be decoded|{OLDER_OPENCV}"):
        frame_numbers(path)
    with pytest.raises(NotPlain, match=f"its last frame cannot be found|{OLDER_OPENCV}"):
        PlainVideo(path).check_end()


@pytest.mark.parametrize("path", INTERLACED, ids=lambda path: path.name)
def test_an_interlaced_video_is_right_or_refused(path):
    try:
        assert frame_numbers(path) == list(range(10))  # OpenCV 4.11 and 4.12
    except NotPlain as error:
        assert str(error) == f"interlaced; {INSTALL_FFMPEG}"
        assert tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13)


@pytest.mark.parametrize("path", INTERLACED, ids=lambda path: path.name)
def test_one_picture_for_all_frames_is_noticed_even_if_the_decoder_says_nothing(path, monkeypatch):
    monkeypatch.setattr(opencv, "_call", lambda function, *arguments: _still(function(*arguments)))
    with pytest.raises(NotPlain, match="one picture for all of its frames"):
        frame_numbers(path)


def _still(result):
    """What a decoder gives, with the same picture for all frames."""
    is_picture = isinstance(result, tuple) and result[1].ndim == 3
    return (True, np.full_like(result[1], 7)) if is_picture else result


def test_a_still_video_is_read(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (320, 240))
    for _ in range(30):
        writer.write(np.full((240, 320, 3), 90, np.uint8))
    writer.release()
    assert len(frame_numbers(tmp_path / "a.mp4")) == 30


def damaged(path):
    """Zero the second half of the encoded frames."""
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    path.write_bytes(content)
    return path


def test_what_the_decoder_says_is_the_reason_and_does_not_reach_the_terminal(tmp_path):
    path = damaged(make_video(tmp_path / "a.mp4", 60, 25, width=320, height=240))
    code = (
        "import sys; from pathlib import Path; from ops.video.opencv import PlainVideo\n"
        "try: list(PlainVideo(Path(sys.argv[1])).read(range(1, 61)))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("NotPlain damaged: ") and done.stderr == ""


@pytest.mark.parametrize("ending", [".avi", ".mkv", ".mp4"])
def test_a_file_that_was_cut_off_is_refused(tmp_path, ending):
    path = make_video(tmp_path / f"a{ending}", 100, 25)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(NotPlain, match="install ffmpeg"):
        frame_numbers(path)


def test_what_is_no_video_is_said_in_words(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is not a file"):
        PlainVideo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is an empty file"):
        PlainVideo(tmp_path / "empty.mp4")
    with pytest.raises(VideoError, match=r"cannot be read .No such file"):
        PlainVideo(tmp_path / "absent.mp4")
    with pytest.raises(NotPlain):
        PlainVideo(tmp_path / "text.mp4")


def test_frames_are_read_forwards_and_back(tmp_path):
    video = PlainVideo(make_video(tmp_path / "a.mp4", 100))
    assert [frame_number(image) for image in video.read([3, 90, 90])] == [2, 89, 89]
    assert [frame_number(image) for image in video.read([89, 91])] == [88, 90]
