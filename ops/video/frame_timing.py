"""Which frames a video of constant rate gives, at its own rate and at another.

The published frames come from `ffmpeg -i VIDEO [-r RATE] image_%05d.jpg`, which writes files at a constant rate: the
one asked for, else the file's. A frame that comes late is preceded by repeats, one that comes early is dropped, with
1.1 frame intervals of patience either way. Where the rate is lowered this patience adds about two frames: 4 seconds at
one frame per second give 6 files.

Nothing here reads a file: timestamps go in, numbers come out.
"""

from collections.abc import Sequence

_PATIENCE = 1.1  # frame intervals, early or late
_TICK = 1 / 65536  # timestamps are rounded to this part of a frame interval, then moved off exact halves
_ROUNDED = 1e-4  # seconds: times that stray further are taken as rounded, and ffmpeg then guesses the rate


def is_constant(times: Sequence[float], rate: float) -> bool:
    """Whether frames shown at `times` (seconds, ascending) come at `rate` from zero, so that each is given once."""
    strays = [abs(time - number / rate) for number, time in enumerate(times)]
    if not times or max(strays) * rate > _PATIENCE - 1:
        return False
    if max(strays) < _ROUNDED:
        return True
    guessed = min((round(rate), round(rate * 1.001) / 1.001), key=lambda guess: abs(guess - rate))
    return guessed > 0 and abs(rate / guessed - 1) * len(times) < 0.1


def frames_at_rate(times: Sequence[float], source_rate: float, rate: float) -> list[int]:
    """The places in `times` of the frames that ffmpeg gives at `rate` per second, ascending, some of them repeated.

    times: seconds at which the frames of a file are shown, at `source_rate`.
    """
    duration = min(1.0, rate / source_rate)  # of a frame of the file, in intervals of `rate`
    given: list[int] = []
    recent_repeats = [0, 0, 0]
    for place, time in enumerate(times):
        due = round(time * rate / _TICK) * _TICK
        due += _TICK / 2 if due > 0 else 0
        late = due - len(given)
        late_at_end = late + duration
        total, repeats = 1, 0
        if late_at_end < -_PATIENCE:
            total = 0
        elif late_at_end > _PATIENCE:
            total = round(late_at_end)
            repeats = min(max(round(late - 0.6), 0), total) if late > _PATIENCE else 0
        recent_repeats = [repeats, *recent_repeats[:2]]
        given += [given[-1] if given else place] * repeats + [place] * (total - repeats)
    return given + given[-1:] * sorted(recent_repeats)[1]  # at the end, as often as is usual lately
