"""Videos -> frames at a constant rate. Where ffmpeg is installed, its frames are compared with ours."""

import shutil
import subprocess
from pathlib import Path

import cv2
import pytest

from ops.video.reader import VideoError, count_packets, read_facts, read_frames
from tests.videos import frame_number, make_video, set_durations, set_edit

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="compares with the program ffmpeg")


def frame_numbers(path, frame_rate=None):
    """The source frames that `path` gives, one number per frame given."""
    given = []
    for copies, image in read_frames(path, frame_rate):
        number = given[-1] if image is None else frame_number(image)
        given += [number] * copies
    return given


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v"])
@pytest.mark.parametrize("rate", [25.0, 30 / 1.001])
def test_a_constant_rate_gives_every_frame_once(tmp_path, ending, rate):
    assert frame_numbers(make_video(tmp_path / f"a{ending}", 60, rate)) == list(range(60))


def test_another_rate_takes_fewer_frames(tmp_path):
    assert frame_numbers(make_video(tmp_path / "a.mp4", 90, 30), 1) == [0, 1, 26, 56, 86]


def test_a_gap_in_the_file_is_filled_at_its_nominal_rate(tmp_path):
    path = make_video(tmp_path / "a.mp4", 40, 10)
    set_durations(path, [(20, 1), (1, 6), (19, 1)])
    numbers = frame_numbers(path)
    assert len(numbers) == 45
    assert numbers[:20] == list(range(20))
    assert numbers[-15:] == list(range(25, 40))
    assert set(numbers) == set(range(40))


def test_a_rate_that_doubles_half_way_gives_the_first_half_twice(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_durations(path, [(30, 2), (30, 1)])
    assert read_facts(path).nominal_rate == pytest.approx(10.0)
    assert len(frame_numbers(path)) == 90


def test_frames_outside_the_edit_list_are_neither_shown_nor_missed(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_edit(path, frames=30, skipped=12)
    assert frame_numbers(path) == list(range(12, 42))


def test_pictures_keep_their_size_and_levels(tmp_path):
    path = make_video(tmp_path / "a.avi", 2, width=80, height=32)
    _, (_, image) = read_frames(path)
    assert image.shape == (32, 80, 3)
    assert image[:, 71:].min() > 240 and image[:, :69].max() < 15


def test_a_name_that_is_not_utf8_can_be_read(tmp_path):
    path = tmp_path / "lat\udce9in.mp4"
    try:
        make_video(tmp_path / "a.mp4", 5).rename(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    assert frame_numbers(path) == list(range(5))


@pytest.mark.parametrize("ending", [".avi", ".webm", ".mkv"])
def test_a_file_cut_off_half_way_is_refused_with_both_counts(tmp_path, ending):
    path = make_video(tmp_path / f"a{ending}", 100, 25)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(VideoError, match=r"promises 100 frames, \d\d could be decoded"):
        frame_numbers(path)


def test_an_mp4_file_whose_second_half_is_zeros_is_refused(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 25, width=320, height=240)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    middle = (start + end) // 2
    content[middle:end] = bytes(end - middle)
    path.write_bytes(content)
    with pytest.raises(VideoError, match="promises 60 frames, "):
        frame_numbers(path)


def test_a_file_that_lacks_its_last_bytes_but_no_frame_is_accepted(tmp_path):
    path = make_video(tmp_path / "a.avi", 50, 25)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"idx1")])
    assert frame_numbers(path) == list(range(50))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is an empty file"), (b"no video " * 100, "cannot be opened as a video")]
)
def test_what_is_no_video_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        frame_numbers(path)
    with pytest.raises(VideoError, match="cannot be read"):
        frame_numbers(tmp_path / "absent.mp4")


def test_packets_are_counted_without_decoding(tmp_path):
    assert count_packets(make_video(tmp_path / "a.mp4", 33)) == 33


FFMPEG_FILES = {
    "constant.mp4": "-f lavfi -i testsrc2=s=64x48:r=30000/1001:d=4",
    "half_rate.webm": "-f lavfi -i testsrc2=s=64x48:r=15:d=4",
    "starts_late.mkv": "-f lavfi -i testsrc2=s=64x48:r=30:d=2 -output_ts_offset 1.3",
    "sound_first.mkv": "-itsoffset 0.5 -f lavfi -i testsrc2=s=64x48:r=30:d=2 -f lavfi -i sine=d=2",
    "gaps.mp4": "-f lavfi -i testsrc2=s=64x48:r=30:d=4 -vf select=not(between(n\\,40\\,60))*mod(n\\,7) -vsync vfr",
    "rates.mp4": "-f lavfi -i testsrc2=s=64x48:r=60:d=3 -vf select=gt(n\\,60)+not(mod(n\\,2)) -vsync vfr",
    "jitter.mp4": "-f lavfi -i testsrc2=s=64x48:r=30:d=4 -vf settb=1/1000,setpts=N*33.3+12*sin(N*1.7) "
    "-vsync vfr -enc_time_base 1/1000",
}


@needs_ffmpeg
@pytest.mark.parametrize("name", FFMPEG_FILES)
def test_there_are_as_many_frames_as_ffmpeg_makes(tmp_path, name):
    path = tmp_path / name
    _ffmpeg(*FFMPEG_FILES[name].split(), str(path))
    for rate in (None, 7):
        folder = tmp_path / f"at {rate}"
        folder.mkdir()
        _ffmpeg("-i", str(path), *(("-r", str(rate)) if rate else ()), f"{folder}/%05d.jpg")
        ours = [image for copies, image in _with_repeats(path, rate) for _ in range(copies)]
        theirs = sorted(folder.iterdir())
        assert len(ours) == len(theirs)
        quality = [cv2.PSNR(image, cv2.imread(str(file))) for image, file in zip(ours, theirs, strict=True)]
        assert sorted(quality)[len(quality) // 10] > 15  # the same pictures; those of others are below 13 dB


def _with_repeats(path, rate):
    last = None
    for copies, image in read_frames(path, rate):
        last = image if image is not None else last
        yield copies, last


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *arguments], check=True, cwd=Path("/"))
