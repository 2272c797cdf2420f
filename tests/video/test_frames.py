"""ops/video/frames.py: single frames of a video are those of its extraction, and no others are converted."""

import random
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from ops.video import frames as video_frames
from ops.video.frame_folders import scaled
from ops.video.frames import FrameFolder, VideoFile
from ops.video.reader import VideoError, read_frames
from tests.conftest import write_frames
from tests.videos import frame_number, make_video, set_durations, set_edit


def extracted(path, frame_rate=None, height=48) -> list[np.ndarray]:
    """All frames of the extraction, before they become JPEG, in RGB."""
    frames = []
    for copies, image in read_frames(path, frame_rate):
        if image is not None:
            last = cv2.cvtColor(scaled(image, height), cv2.COLOR_BGR2RGB)
        frames += [last] * copies
    return frames


def check(path, frame_rate=None, height=48, rounds=3) -> VideoFile:
    """Read random frames again and again, forwards and back, and compare them with the extraction's."""
    expected = extracted(path, frame_rate, height)
    video = VideoFile(path, frame_rate, height)
    assert len(video) == len(expected)
    draw = random.Random(0)
    for _ in range(rounds):
        numbers = sorted(draw.choices(range(1, len(video) + 1), k=8))
        for number, frame in zip(numbers, video.read(numbers), strict=True):
            np.testing.assert_array_equal(frame, expected[number - 1])
    video.close()
    return video


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".webm", ".mkv", ".mov"])
@pytest.mark.parametrize("frame_rate", [None, 7])
def test_frames_are_those_of_extraction_to_the_bit(tmp_path, ending, frame_rate):
    check(make_video(tmp_path / f"a{ending}", 150, 25), frame_rate)


@pytest.mark.parametrize("height", [20, 96])
def test_frames_have_the_height_of_extraction(tmp_path, height):
    check(make_video(tmp_path / "a.mp4", 30), height=height)


def test_a_rate_that_varies_changes_nothing(tmp_path):
    path = make_video(tmp_path / "a.mp4", 120, 10)
    set_durations(path, [(30, 3), (1, 20), (50, 1), (39, 2)])
    video = check(path, rounds=10)
    assert video._starts is not None  # skipping over frames always led to the right one


def test_hidden_frames_stay_hidden(tmp_path):
    path = make_video(tmp_path / "a.mp4", 120, 10)
    set_edit(path, frames=60, skipped=31)
    video = check(path)
    assert frame_number(next(video.read([1]))) == 31


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="makes the videos with the program ffmpeg")
@pytest.mark.parametrize(
    "codec",
    [
        "-c:v libx264 -x264-params keyint=20",
        "-c:v libx264 -x264-params open-gop=1:keyint=20",
        "-c:v libx264 -x264-params intra-refresh=1:keyint=20",
        "-c:v libx265 -x265-params log-level=none:keyint=20",
        "-c:v mpeg4 -bf 2 -g 20",
    ],
)
def test_no_way_of_storing_frames_confuses_it(tmp_path, codec):
    path = tmp_path / "a.mkv"
    source = "-f lavfi -i testsrc2=s=64x48:r=30:d=4"
    command = ["ffmpeg", "-v", "error", "-nostdin", *source.split(), *codec.split(), str(path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this ffmpeg lacks the codec")
    check(path)


def test_only_frames_asked_for_are_converted_and_each_once(tmp_path, monkeypatch):
    converted = []
    original = video_frames.retrieve

    def counting(capture, number):
        converted.append(number - 1)
        return original(capture, number)

    monkeypatch.setattr(video_frames, "retrieve", counting)
    video = VideoFile(make_video(tmp_path / "a.mp4", 200), height=48)
    assert converted == []
    assert [frame_number(frame) for frame in video.read([3, 90, 90, 90, 170])] == [2, 89, 89, 89, 169]
    assert converted == [2, 89, 169]


def test_stretches_between_wanted_frames_are_skipped_over(tmp_path, monkeypatch):
    video = VideoFile(make_video(tmp_path / "a.mp4", 200), height=48)
    grabs, original = [], video_frames.VideoFile._number
    monkeypatch.setattr(
        video_frames.VideoFile, "_number", lambda self, expected: grabs.append(expected) or original(self, expected)
    )
    assert frame_number(next(video.read([190]))) == 189
    assert len(grabs) < 40


def test_a_video_whose_times_mislead_seeking_is_read_from_the_start(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 100)
    video = VideoFile(path, height=48)
    monkeypatch.setattr(type(video.timeline), "index_at", lambda self, time: round(10 * time) if time < 3 else None)
    monkeypatch.setattr(video_frames.VideoFile, "_number", lambda self, expected: expected)
    assert frame_number(next(video.read([90]))) == 89


def test_damage_is_noticed_and_decoding_it_all_says_what_extraction_says(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 25, width=320, height=240)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (start + end) // 2
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)
    video = VideoFile(path)
    with pytest.raises(VideoError, match=r"damaged: frame \d+ of 60 cannot be decoded"):
        list(video.read([1, 60]))
    with pytest.raises(VideoError, match="promises 60 frames"):
        VideoFile(path, decode_all=True)


def test_a_frame_of_no_sensible_shape_is_refused(tmp_path):
    with pytest.raises(VideoError, match="2048 x 16 pixels is no frame"):
        next(VideoFile(make_video(tmp_path / "a.avi", 2, width=2048, height=16)).read([1]))


def test_a_closed_video_can_be_read_again(tmp_path):
    video = VideoFile(make_video(tmp_path / "a.mp4", 40), height=48)
    for number in (30, 5):
        assert frame_number(next(video.read([number]))) == number - 1
        video.close()


def test_a_folder_of_frames_gives_them_and_replaces_bad_ones(tmp_path):
    write_frames(tmp_path / "a", 9, seed=1)
    (tmp_path / "a" / "image_00004.jpg").write_bytes(b"")
    video = FrameFolder(tmp_path / "a", "image_{:05d}.jpg")
    frames = list(video.read([1, 4, 9]))
    expected = [cv2.imread(str(tmp_path / "a" / f"image_{number:05d}.jpg"))[:, :, ::-1] for number in (1, 3, 9)]
    np.testing.assert_array_equal(frames, expected)
    assert len(video) == 9 and video.replaced == 1 and video.rate is None


def test_a_folder_without_a_good_frame_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(VideoError, match=r"holds no frame image_00001\.jpg"):
        FrameFolder(tmp_path / "a", "image_{:05d}.jpg")
    (tmp_path / "a" / "image_00001.jpg").write_bytes(b"x")
    with pytest.raises(VideoError, match="has no readable frame"):
        next(FrameFolder(tmp_path / "a", "image_{:05d}.jpg").read([1]))
