"""ops/video/frames.py: single frames of a video are those of its extraction; see also test_samples.py."""

import random
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from ops.video import frames as video_frames
from ops.video.errors import VideoError
from ops.video.frame_folders import FrameSettings
from ops.video.frames import FrameFolder, VideoFile
from ops.video.opencv import PlainVideo
from tests.shared import write_frames
from tests.videos import frame_number, make_video, replace_ffmpeg, set_durations, set_edit

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the program ffmpeg")
OPENCV = FrameSettings(height=48, backend="opencv")
BACKENDS = ["opencv", pytest.param("ffmpeg", marks=needs_ffmpeg)]


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".webm", ".mkv", ".mov"])
def test_opencv_frames_are_those_of_extraction_to_the_bit(tmp_path, ending):
    path = make_video(tmp_path / f"a{ending}", 150, 25)
    expected = list(PlainVideo(path, height=48).read(range(1, 151)))
    video, draw = VideoFile(path, OPENCV), random.Random(0)
    for _ in range(3):  # forwards and back
        numbers = sorted(draw.choices(range(1, len(video) + 1), k=8))
        for number, frame in zip(numbers, video.read(numbers), strict=True):
            np.testing.assert_array_equal(frame, expected[number - 1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("height", [20, 96])
def test_frames_have_the_height_of_extraction(tmp_path, height, backend):
    video = VideoFile(make_video(tmp_path / "a.mp4", 30), FrameSettings(height=height, backend=backend))
    (frame,) = video.read([15])
    assert frame.shape[0] == height and frame_number(frame) == 14


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_at_another_rate_are_those_of_extraction_at_it(tmp_path, backend):
    settings = FrameSettings(height=48, frame_rate=5, backend=backend)
    video = VideoFile(make_video(tmp_path / "a.mp4", 12, 10), settings)
    assert [frame_number(frame) for frame in video.read(range(1, len(video) + 1))] == [0, 1, 2, 3, 5, 7, 9, 11]
    assert video.rate == 5


@needs_ffmpeg
def test_a_long_way_between_frames_starts_ffmpeg_again_and_a_short_one_does_not(tmp_path, monkeypatch):
    started, original = [], video_frames._FfmpegFrames._run
    monkeypatch.setattr(
        video_frames._FfmpegFrames, "_run", lambda self, group: started.append(list(group)) or original(self, group)
    )
    video = VideoFile(make_video(tmp_path / "a.mp4", 400, 25), FrameSettings(height=48, backend="ffmpeg"))
    # Pictures hold eight bits of their number.
    assert [frame_number(frame) for frame in video.read([3, 3, 4, 5, 320, 330])] == [2, 2, 3, 4, 319 - 256, 329 - 256]
    assert started == [[2, 3, 4], [319, 329]]
    decoded = video.decoded_with([3, 320], range(1, 401))  # where decoding can begin every twelfth frame
    assert {1, 2, 3, 318, 319, 320} < decoded and decoded.isdisjoint(range(4, 309))


@needs_ffmpeg
@pytest.mark.parametrize("lacking", ["-vsync", "-fps_mode"])
def test_frames_are_read_by_releases_of_ffmpeg_before_5_1_and_from_9_on(tmp_path, monkeypatch, lacking):
    known = subprocess.run(["ffmpeg", "-v", "quiet", "-h", "long"], capture_output=True, text=True).stdout
    if not {"-vsync", "-fps_mode"} <= set(re.findall(r"-\w+", known)):
        pytest.skip("the installed release is one of them itself")
    script = f"""case " $* " in
        *' {lacking} '*) echo 'Unrecognized option' >&2; exit 1 ;;
        *' -h '*) "$FFMPEG" "$@" | grep -ve '{lacking}' ;;
        *) exec "$FFMPEG" "$@" ;;
    esac"""
    replace_ffmpeg(monkeypatch, tmp_path, script)
    video = VideoFile(make_video(tmp_path / "a.mp4", 30), FrameSettings(height=48, backend="ffmpeg"))
    assert [frame_number(frame) for frame in video.read([3, 4, 29])] == [2, 3, 28]


@needs_ffmpeg
def test_colours_are_those_that_a_reader_of_the_published_files_sees(tmp_path):
    path, settings = tmp_path / "hdtv.mp4", FrameSettings(height=64, backend="ffmpeg")
    source = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.2", "-c:v", "libx264", "-preset", "ultrafast"]
    subprocess.run(["ffmpeg", "-v", "error", *source, "-colorspace", "bt709", path], check=True)
    frames = list(VideoFile(path, settings).read(range(1, 6)))
    extracted = list(VideoFile(path, settings, decode_all=True).read(range(1, 6)))
    assert np.abs(np.float32(frames) - np.float32(extracted)).mean() < 5  # 11 in HDTV's own colours


@needs_ffmpeg
def test_a_rate_that_varies_is_extracted_and_gives_the_published_frames(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_durations(path, [(30, 2), (30, 1)])
    video = VideoFile(path, FrameSettings(height=48, backend="ffmpeg"))
    assert video.all_decoded and len(video) == 90 and video.rate == 10
    assert [frame_number(frame) for frame in video.read([1, 90])] == [0, 59]


@needs_ffmpeg
def test_hidden_frames_stay_hidden(tmp_path):
    path = make_video(tmp_path / "a.mp4", 120, 10)
    set_edit(path, frames=60, skipped=31)
    video = VideoFile(path, FrameSettings(height=48, backend="ffmpeg"))
    assert frame_number(next(video.read([1]))) == 31


def test_a_file_that_hides_its_last_frames_is_refused_without_ffmpeg_before_one_is_read(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_edit(path, frames=50, skipped=5)
    with pytest.raises(VideoError, match=r"its last frame cannot be found|its frame rate varies"):  # so OpenCV 4.11
        VideoFile(path, OPENCV)


@needs_ffmpeg
def test_a_damaged_frame_is_noticed_and_decoding_it_all_gives_what_there_is(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 25, width=320, height=240)
    content = bytearray(path.read_bytes())
    end = content.index(b"moov") - 4
    content[end - 300 : end] = bytes(300)
    path.write_bytes(content)
    video = VideoFile(path, FrameSettings(height=48, backend="ffmpeg"))
    assert not video.all_decoded
    with pytest.raises(VideoError, match=r"damaged: frame \d+ of 60 cannot be decoded"):
        list(video.read([1, 60]))
    video = VideoFile(path, FrameSettings(height=48, backend="ffmpeg"), decode_all=True)
    assert 54 <= len(video) < 60 and frame_number(next(video.read([20]))) == 19


def test_a_frame_of_no_sensible_shape_is_refused(tmp_path):
    with pytest.raises(VideoError, match=r"2048 x 16 pixels is no frame|none of its frames"):
        next(VideoFile(make_video(tmp_path / "a.avi", 2, width=2048, height=16), FrameSettings(height=16)).read([1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_closed_video_can_be_read_again(tmp_path, backend):
    video = VideoFile(make_video(tmp_path / "a.mp4", 40), FrameSettings(height=48, backend=backend))
    for number in (30, 5):
        assert frame_number(next(video.read([number]))) == number - 1


def test_a_folder_of_frames_gives_them_and_replaces_bad_ones(tmp_path):
    write_frames(tmp_path / "a", 9, seed=1)
    (tmp_path / "a" / "image_00002.jpg").unlink()
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
