"""The rule that turns timestamps into a constant rate. Expected counts are what ffmpeg 5.1 gave for such files."""

import pytest

from ops.video.frame_timing import frames_at_rate, is_constant


def at_rate(rate, frames):
    return [number / rate for number in range(frames)]


@pytest.mark.parametrize("rate", [12.5, 24 / 1.001, 25.0, 30 / 1.001, 30.0, 60.0])
def test_a_constant_rate_gives_every_frame_once(rate):
    assert frames_at_rate(at_rate(rate, 500), rate, rate) == list(range(500))


@pytest.mark.parametrize(
    ("rate", "frames", "wanted", "total"),
    [
        (30.0, 120, 1, 6), (30.0, 120, 7, 30), (30.0, 120, 10, 42), (30.0, 120, 24, 98), (30.0, 120, 60, 239),
        (25.0, 100, 1, 6), (25.0, 100, 60, 240), (12.5, 100, 1, 10), (12.5, 100, 24, 192), (60.0, 480, 7, 58),
        (30 / 1.001, 1199, 1, 42), (30 / 1.001, 1199, 24, 962), (30 / 1.001, 1199, 60, 2400), (0.5, 10, 1, 19),
    ],
)  # fmt: skip
def test_another_rate_gives_as_many_frames_as_ffmpeg(rate, frames, wanted, total):
    assert len(frames_at_rate(at_rate(rate, frames), rate, wanted)) == total


def test_one_frame_per_second_takes_the_first_two_and_then_one_in_each_second():
    assert frames_at_rate(at_rate(30, 120), 30, 1) == [0, 1, 26, 56, 86, 116]


@pytest.mark.parametrize(
    ("rate", "wanted", "given"),
    [
        (10, 7, "0 1 2 3 4 5 6 8 9 11"),
        (5, 16, "0 0 0 1 1 1 2 2 2 3 3 3 4 4 4 5 5 5 5 6 6 6 7 7 7 8 8 8 9 9 9 10 10 10 10 11 11"),
    ],
)
def test_another_rate_gives_the_frames_that_ffmpeg_gives(rate, wanted, given):
    assert frames_at_rate(at_rate(rate, 12), rate, wanted) == list(map(int, given.split()))


@pytest.mark.parametrize("rate", [12.5, 30 / 1.001, 19.47, 60.0])
def test_regular_times_are_constant(rate):
    assert is_constant(at_rate(rate, 1000), rate)


def test_times_rounded_to_milliseconds_are_constant_where_ffmpeg_knows_the_rate():
    times = [round(time, 3) for time in at_rate(30 / 1.001, 1199)]
    assert is_constant(times, 30 / 1.001)
    assert not is_constant([round(time, 3) for time in at_rate(30.03, 300)], 30.03)  # taken for 30


@pytest.mark.parametrize(
    "times",
    [
        [],
        [0.5, 0.6, 0.7],  # starts late
        [0, 0.1, 0.2, 0.7, 0.8],  # a gap
        [0, 0.1, 0.1, 0.3],  # two at once
        [0, 0.1, 0.23, 0.3],  # out of step
        [0, 0.05, 0.1, 0.15],  # another rate
    ],
)
def test_other_times_are_not(times):
    assert not is_constant(times, 10)
