"""ops/video/timeline.py: which frames extraction would give, mostly without decoding."""

import numpy as np
import pytest

from ops.video import timeline as video_timeline
from ops.video.reader import VideoError, read_frames
from ops.video.timeline import read_timeline
from tests.videos import frame_number, make_video, set_durations, set_edit


def extracted_numbers(path, frame_rate=None) -> list[int]:
    """The file's frame that each frame of the extraction shows."""
    given = []
    for copies, image in read_frames(path, frame_rate):
        given += [given[-1] if image is None else frame_number(image)] * copies
    return given


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".webm", ".mkv", ".mov"])
@pytest.mark.parametrize("frame_rate", [None, 1, 40])
def test_the_frames_are_those_of_extraction(tmp_path, ending, frame_rate):
    path = make_video(tmp_path / f"a{ending}", 50, 25)
    for decode_all in (False, True):
        timeline = read_timeline(path, frame_rate, decode_all=decode_all)
        assert timeline.frames.tolist() == extracted_numbers(path, frame_rate)
        assert len(timeline.times) == 50
        assert timeline.rate == (frame_rate or 25)


@pytest.mark.parametrize("durations", [[(20, 1), (1, 6), (19, 1)], [(20, 2), (20, 1)]])
def test_frames_of_varying_duration_are_repeated_as_in_extraction(tmp_path, durations):
    path = make_video(tmp_path / "a.mp4", 40, 10)
    set_durations(path, durations)
    timeline = read_timeline(path)
    assert timeline.frames.tolist() == extracted_numbers(path)
    assert len(timeline.frames) > 40 and timeline.starts is not None


def test_an_edit_list_that_hides_frames_is_found_by_decoding(tmp_path):
    path = make_video(tmp_path / "a.mp4", 60, 10)
    set_edit(path, frames=30, skipped=12)
    timeline = read_timeline(path)
    assert timeline.starts is None
    assert (timeline.frames + 12).tolist() == extracted_numbers(path) == list(range(12, 42))


def test_nothing_is_converted_and_only_the_first_frame_decoded(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", 40)
    opened = []

    class Counting:
        def __init__(self, capture):
            self.capture, self.grabs = capture, 0
            opened.append(self)

        def grab(self):
            self.grabs += 1
            return self.capture.grab()

        def get(self, what):
            return self.capture.get(what)

    original = video_timeline.open_video

    class Opened:
        def __init__(self, path):
            self.real = original(path)

        def __enter__(self):
            return Counting(self.real.__enter__())

        def __exit__(self, *error):
            return self.real.__exit__(*error)

    monkeypatch.setattr(video_timeline, "open_video", Opened)
    assert len(read_timeline(path).frames) == 40
    assert [capture.grabs for capture in opened] == [1]


def test_decoding_can_begin_at_some_frames_the_first_among_them(tmp_path):
    starts = read_timeline(make_video(tmp_path / "a.mp4", 100)).starts
    assert starts[0] == 0 and 1 < len(starts) < 100 and starts == sorted(starts)


def test_a_frame_is_found_by_its_time(tmp_path):
    timeline = read_timeline(make_video(tmp_path / "a.mp4", 30, 10))
    assert [timeline.index_at(time) for time in timeline.times] == list(range(30))
    assert timeline.index_at(0.05) is None and timeline.index_at(99) is None and timeline.index_at(-1) is None


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_of_a_frame_or_two_has_these(tmp_path, frames):
    np.testing.assert_array_equal(read_timeline(make_video(tmp_path / "a.mp4", frames)).frames, range(frames))


def test_what_extraction_refuses_is_refused(tmp_path):
    cut = make_video(tmp_path / "cut.mkv", 100, 25)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 6 // 10])
    with pytest.raises(VideoError, match="promises 100 frames"):
        read_timeline(cut)
    (tmp_path / "text.mp4").write_bytes(b"no video " * 100)
    with pytest.raises(VideoError, match="cannot be opened as a video"):
        read_timeline(tmp_path / "text.mp4")
