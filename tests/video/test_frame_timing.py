"""The rule that turns timestamps into a constant rate. Expected counts are what ffmpeg 5.1 gave for such files."""

import math

import pytest

from ops.video.frame_timing import ConstantRate, is_cut_short, nominal_rate


def counts(timestamps, rate, source_rate):
    """How often each frame is given."""
    pacing = ConstantRate(rate, source_rate)
    given = []
    for seconds in timestamps:
        repeats, copies = pacing.add(seconds)
        if repeats:
            given[-1] += repeats
        given.append(copies)
    given[-1] += pacing.finish()
    return given


def at_rate(rate, frames):
    return [number / rate for number in range(frames)]


@pytest.mark.parametrize("rate", [12.5, 24 / 1.001, 25.0, 30 / 1.001, 30.0, 60.0])
def test_a_constant_rate_gives_every_frame_once(rate):
    assert counts(at_rate(rate, 500), rate, rate) == [1] * 500


def test_timestamps_in_whole_milliseconds_give_every_frame_once():
    rate = 30 / 1.001
    assert counts([round(seconds, 3) for seconds in at_rate(rate, 1199)], rate, rate) == [1] * 1199


@pytest.mark.parametrize(
    ("rate", "frames", "wanted", "total"),
    [
        (30.0, 120, 1, 6), (30.0, 120, 7, 30), (30.0, 120, 10, 42), (30.0, 120, 24, 98), (30.0, 120, 60, 239),
        (25.0, 100, 1, 6), (25.0, 100, 60, 240), (12.5, 100, 1, 10), (12.5, 100, 24, 192), (60.0, 480, 7, 58),
        (30 / 1.001, 1199, 1, 42), (30 / 1.001, 1199, 24, 962), (30 / 1.001, 1199, 60, 2400), (0.5, 10, 1, 19),
    ],
)  # fmt: skip
def test_another_rate_gives_as_many_frames_as_ffmpeg(rate, frames, wanted, total):
    assert sum(counts(at_rate(rate, frames), wanted, rate)) == total


def test_one_frame_per_second_takes_the_first_two_and_then_one_in_each_second():
    given = counts(at_rate(30, 120), 1, 30)
    assert [number for number, copies in enumerate(given) if copies] == [0, 1, 26, 56, 86, 116]


def test_a_gap_is_filled_with_the_frames_around_it():
    given = counts([0, 0.1, 0.2, 0.7, 0.8], 10, 10)
    assert sum(given) == 9
    assert given == [1, 1, 4, 2, 1]


def test_a_picture_that_starts_late_is_repeated_from_the_start():
    seconds = [16 / 30 + time for time in at_rate(30, 120)]
    given = counts(seconds, 30, 30)
    assert given == [17] + [1] * 119


def test_frames_that_come_too_fast_are_dropped():
    assert sum(counts(at_rate(60, 60), 30, 60)) == 32


def test_a_regular_file_has_its_average_as_nominal_rate():
    assert nominal_rate(30 / 1.001, at_rate(30 / 1.001, 90)) == 30 / 1.001


def test_the_nominal_rate_of_an_unusual_regular_file_is_no_standard_one():
    assert nominal_rate(19.47, at_rate(19.47, 60)) == 19.47


def test_frames_left_out_of_a_grid_do_not_lower_the_nominal_rate():
    times = [time for number, time in enumerate(at_rate(30, 100)) if number % 3 or number < 40]
    assert nominal_rate(22.3, times) == 30.0


def test_the_nominal_rate_does_not_depend_on_the_order_of_packets():
    times = at_rate(24, 60)
    assert nominal_rate(20.0, times[::-1]) == nominal_rate(20.0, times) == 24.0


def test_two_rates_in_turn_share_the_faster_as_nominal_rate():
    times = at_rate(30, 40) + [40 / 30 + time for time in at_rate(60, 50)]
    assert nominal_rate(44.6, times) == pytest.approx(60.0, abs=1e-6)


def test_rounded_timestamps_scatter_around_a_standard_rate():
    times = [round(time * 1000) / 1000 for time in at_rate(30, 90)]
    assert nominal_rate(30.0023, times) == 30.0


def test_irregular_timestamps_have_their_average_as_nominal_rate():
    times = [0.0333 * number + 0.012 * math.sin(1.7 * number) for number in range(90)]
    assert nominal_rate(30.13, times) == 30.13


def test_a_handful_of_frames_has_its_average_as_nominal_rate():
    assert nominal_rate(7.5, [0.0, 0.2, 0.3]) == 7.5


@pytest.mark.parametrize(
    ("promised", "read", "seconds", "short"),
    [
        (300, 300, 10.0, False),
        (300, 293, 9.77, False),  # a few frames are often missing
        (300, 250, 8.33, True),
        (300, 0, 0.0, True),
        (300, 200, 10.0, False),  # a guess from the duration, and frames that come slower
        (300, 300, 6.0, False),  # the last frame is shown for long
        (0, 12, 0.4, False),  # not stated
        (-2.7e14, 12, 0.4, False),
    ],
)
def test_a_file_is_cut_short_when_frames_and_time_are_missing(promised, read, seconds, short):
    assert is_cut_short(promised, promised / 30, read, seconds) is short


def test_slack_allows_for_a_share_of_missing_frames():
    assert not is_cut_short(300, 10.0, 270, 9.0, slack=0.15)
    assert is_cut_short(300, 10.0, 200, 6.7, slack=0.15)
