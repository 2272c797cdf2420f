"""Every kind of video in `tests.video.samples`: frames are those of the published command, or the video is refused."""

import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from ops.video.errors import INSTALL_FFMPEG, VideoError
from ops.video.frame_folders import FrameSettings, make_frames
from ops.video.frames import VideoFile, _FfmpegFrames, _plain_packets
from tests.video.samples import DAMAGED, SAMPLES, make_sample

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="makes its videos with the program ffmpeg")
HEIGHT = 64
TOO_SHORT = {"truncated_50.avi", "truncated_end.mp4", "zeroed.mkv"}
# Read by OpenCV too: the kinds that nearly all videos are of must not end up among those that are refused.
PLAIN = {
    "h264.mp4",
    "h264_main.mkv",
    "h264_sound.mp4",
    "hevc.mp4",
    "mpeg4.avi",
    "mjpeg.avi",
    "vp9.webm",
    "rate_ntsc.mkv",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


def published(video, target, rate=None):
    """The files that the published command makes: name -> bytes."""
    target.mkdir()
    rates = ["-r", str(rate)] if rate else []
    command = ["ffmpeg", "-nostdin", "-v", "quiet", "-i", video, "-vf", f"scale=-1:{HEIGHT}", *rates]
    subprocess.run([*command, target / "image_%05d.jpg"], check=False)
    return files_of(target)


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def grey_levels(pictures):
    """[H, W] each. Chroma is left aside: it is stored and brought back in different ways."""
    return [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in pictures]


def check_pictures(pictures, expected, numbers):
    """Each picture is close to the one of its number, 1.., and to none near that number more than that."""
    for picture, number in zip(grey_levels(pictures), numbers, strict=True):
        near = {place: expected[place - 1] for place in range(max(1, number - 3), min(len(expected), number + 3) + 1)}
        distances = {place: float(np.abs(picture - other).mean()) for place, other in near.items()}
        assert distances[number] < 9 and distances[number] <= min(distances.values()) + 0.05


def check_extraction(name, video, target, expected, settings):
    """The folder of frames is as published, or the video is refused and nothing is left."""
    ours = settings.uses_ffmpeg
    try:
        made = make_frames(video, target, settings)
    except VideoError as error:
        assert name in TOO_SHORT if ours else INSTALL_FFMPEG in str(error)
        assert ours or name not in PLAIN
        assert not target.exists()
        return
    files = files_of(target)
    assert name not in TOO_SHORT and made.frames == len(expected) and files.keys() == expected.keys()
    assert bool(made.flaw) == (name in DAMAGED)
    if ours:
        assert files == expected
    else:
        assert name not in DAMAGED
        numbers = range(1, len(files) + 1)
        check_pictures(decoded(files.values()), grey_levels(decoded(expected.values())), numbers)


def check_single_frames(name, video, expected, settings):
    """`VideoFile` gives the frames of the extraction, or refuses the video."""
    packets = _plain_packets(video) if settings.uses_ffmpeg else None
    if settings.uses_ffmpeg and packets is None:
        return  # it is extracted, which `check_extraction` looks at
    count = len(expected)
    numbers = sorted({1, max(1, count // 3), max(1, count * 2 // 3), count})
    try:
        file = _FfmpegFrames(video, settings, *packets) if packets else VideoFile(video, settings)
        try:
            pictures = list(file.read(numbers))
        except VideoError:
            if not packets:
                raise
            file = VideoFile(video, settings, decode_all=True)
            pictures = list(file.read(numbers))
    except VideoError as error:
        assert name in TOO_SHORT if settings.uses_ffmpeg else INSTALL_FFMPEG in str(error)
    else:
        assert name not in TOO_SHORT and len(file) == count
        check_pictures(pictures, grey_levels(decoded(expected.values())), numbers)


def decoded(contents):
    return [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB) for content in contents]


@pytest.mark.parametrize("name", [*SAMPLES, *DAMAGED])
def test_frames_are_as_published(folder, tmp_path, name):
    video = make_sample(name, folder)
    expected = published(video, tmp_path / "published")
    for backend in ("ffmpeg", "opencv"):
        settings = FrameSettings(height=HEIGHT, backend=backend, jpeg_quality=95)
        check_extraction(name, video, tmp_path / backend, expected, settings)
        check_single_frames(name, video, expected, settings)


@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "h264_main.mkv", "mpeg4.avi", "rate_varies.mp4", "rates_joined.mp4", "offset_small.mp4", "zeroed.mp4"],
)  # fmt: skip
def test_frames_at_another_rate_are_as_published(folder, tmp_path, name):
    video = make_sample(name, folder)
    expected = published(video, tmp_path / "published", 5)
    for backend in ("ffmpeg", "opencv"):
        settings = FrameSettings(height=HEIGHT, frame_rate=5, backend=backend, jpeg_quality=95)
        check_extraction(name.replace(".mkv", " at another rate"), video, tmp_path / backend, expected, settings)
