"""Which frames a video gives at a constant rate: the counts that the published split files rest on.

The published frames come from `ffmpeg -i VIDEO [-r RATE] image_%05d.jpg`, which writes image files at a constant rate:
the one asked for, else the nominal rate of the file. A frame that comes late is preceded by repeats, one that comes
early is dropped, with 1.1 frame intervals of patience either way. Where the rate is lowered this patience adds about
two frames: 4 seconds at one frame per second give 6 files. The rules here give the counts of ffmpeg 5.1 on every file
tried, constant rate or not; ffmpeg 9 differs by at most one frame, and only where frames are repeated or dropped.

Nothing here reads a file: timestamps go in, numbers come out.
"""

import bisect
from collections.abc import Sequence
from itertools import pairwise

_PATIENCE = 1.1  # frame intervals, early or late
_TICK = 1 / 65536  # timestamps are rounded to this part of a frame interval, then moved off exact halves
_FASTEST = 210.0  # frames per second: a nominal rate above it is taken for a time unit where the average is ...
_SLOW = 70.0  # ... below this
_FINEST_STEP = 0.002  # seconds: a common step of the intervals below this is taken for a time unit too
_LARGEST_MISFIT = 0.01  # variance of the timestamps around whole frames of a standard rate, in squared frames
STANDARD_RATES = (
    *(twelfths / 12 for twelfths in range(12 * 12, 30 * 12 + 1)),
    *map(float, range(31, 61)),
    *(80.0, 120.0, 240.0),
    *(rate / 1.001 for rate in (24, 30, 60, 12, 15, 48)),
)


class ConstantRate:
    """Turns frames with timestamps into a constant rate, one frame at a time.

    rate: frames per second to give. source_rate: nominal frames per second of the file.
    """

    def __init__(self, rate: float, source_rate: float):
        self._rate = rate
        self._duration = min(1.0, rate / source_rate)  # of a frame of the file, in intervals of `rate`
        self._given = 0
        self._recent_repeats = [0, 0, 0]

    def add(self, seconds: float) -> tuple[int, int]:
        """Take the file's next frame, shown at `seconds`; return (repeats of the frame given last, copies of it)."""
        due = round(seconds * self._rate / _TICK) * _TICK
        due += _TICK / 2 if due > 0 else -_TICK / 2 if due < 0 else 0
        late = due - self._given
        late_at_end = late + self._duration
        total, repeats = 1, 0
        if late_at_end < -_PATIENCE:
            total = 0
        elif late_at_end > _PATIENCE:
            total = round(late_at_end)
            if late > _PATIENCE:
                repeats = round(late - 0.6)
        repeats = min(repeats, total)
        self._recent_repeats = [repeats, *self._recent_repeats[:2]]
        first = self._given == 0
        self._given += total
        return (0, total) if first else (repeats, total - repeats)

    def finish(self) -> int:
        """How often the last frame is repeated at the end: as often as is usual lately."""
        return sorted(self._recent_repeats)[1]


def nominal_rate(average_rate: float, timestamps: Sequence[float]) -> float:
    """Guess the frames per second that an MP4 file was recorded at; its header states only the average.

    timestamps: seconds, of the first frames, in any order. The common step of the intervals counts where there is one
    (frames were left out of a regular grid), else the standard rate around whose frames the timestamps scatter least,
    else the average. The same steps as in libavformat, whose guess ffmpeg uses.
    """
    times = sorted(set(timestamps))
    intervals = [later - earlier for earlier, later in pairwise(times)]
    if len(intervals) < 5:
        return average_rate
    step = 0.0
    for interval in intervals[3:]:  # the first ones often jitter
        step = _common_step(step, interval)
    regular = max(intervals[:-1]) - min(intervals[:-1]) < 1e-4  # the last one is often longer
    if step > _FINEST_STEP and (regular or len(intervals) > 15):
        whole = times[-1] - times[3]
        rate = round(whole / step) / whole
    else:
        rate = _closest_standard_rate(times)
    if rate is None or (rate > _FASTEST and average_rate < _SLOW):
        return average_rate
    for known in (average_rate, _nearest(rate, sorted(STANDARD_RATES))):
        if abs(rate / known - 1) < 1e-6:  # timestamps are rounded, the known rate is not
            return known
    return rate


def is_cut_short(
    promised_frames: float, promised_seconds: float, read_frames: int, read_seconds: float, slack: float = 0.01
) -> bool:
    """Whether clearly less could be read than the header promises: in frames and also in time.

    Both, since the promised frames are a guess from the duration in some containers, and the last frame may be shown
    for long in others. Five frames more or less are common in intact files; `slack` is the share allowed beyond these.
    """
    if not (0 < promised_frames < 1e9 and promised_seconds > 0):
        return False  # not stated
    allowed_frames = 5 + slack * promised_frames
    allowed_seconds = allowed_frames * promised_seconds / promised_frames
    return read_frames < promised_frames - allowed_frames and read_seconds < promised_seconds - allowed_seconds


def _common_step(a: float, b: float, tolerance: float = 5e-5) -> float:
    """The greatest common divisor of two intervals that are known to within `tolerance` seconds."""
    a, b = max(a, b), min(a, b)
    while b > tolerance:
        remainder = a % b
        a, b = b, remainder if remainder < b - tolerance else 0.0
    return a


def _closest_standard_rate(times: Sequence[float]) -> float | None:
    mean_interval = (times[-1] - times[0]) / (len(times) - 1)
    best_rate, best_misfit = None, _LARGEST_MISFIT
    for rate in STANDARD_RATES:
        if mean_interval < 0.8 / rate:
            continue  # would drop frames
        for phase in (0.0, 0.5):
            offsets = [time * rate - round(time * rate + phase) for time in times[1:]]
            mean = sum(offsets) / len(offsets)
            misfit = sum(offset * offset for offset in offsets) / len(offsets) - mean * mean
            if misfit < best_misfit and best_misfit > 1e-9:
                best_rate, best_misfit = rate, misfit
    return best_rate


def _nearest(value: float, ascending: Sequence[float]) -> float:
    place = bisect.bisect(ascending, value)
    return min(ascending[max(place - 1, 0) : place + 1], key=lambda candidate: abs(candidate - value))
