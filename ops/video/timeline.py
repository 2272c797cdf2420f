"""Which frame of a video file is which frame of its extraction, found without decoding where that is safe.

`ops.video.extraction` decodes a whole file to give its frames at a constant rate. What it gives depends on the
timestamps alone, and those of MP4, Matroska and WebM files stand beside the encoded frames.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from ops.video.reader import Pacing, VideoError, VideoFacts, codec_name, open_video, position, read_facts, read_packets

TIME_TOLERANCE = 1e-4  # seconds between the time of an encoded frame and that of the same frame decoded
_OWN_TIMES = ("mp4", "matroska")  # containers that state when each frame is shown; others, in which order it is stored


@dataclass(frozen=True)
class Timeline:
    """The N frames that extraction would give of a file of M frames."""

    frames: np.ndarray  # int64 [N], 0..M-1: the file's frame that each of them shows, ascending
    times: list[float]  # [M], when each of the file's frames is shown, in seconds by OpenCV's clock
    starts: list[int] | None  # the file's frames at which decoding can begin, ascending; None: at the first one only
    rate: float  # of the N frames, per second

    def index_at(self, time: float) -> int | None:
        """Which of the file's frames is shown at a time, as OpenCV tells it; None where there is none."""
        place = bisect_left(self.times, time - TIME_TOLERANCE)
        return place if place < len(self.times) and self.times[place] <= time + TIME_TOLERANCE else None


def read_timeline(path: Path, frame_rate: float | None = None, *, decode_all: bool = False) -> Timeline:
    """The timeline of a video at `frame_rate` per second, by default the file's nominal rate.

    One frame is decoded, and none converted. Where the container does not say when each frame is shown, where some of
    the frames are hidden, and with `decode_all`, all of them are decoded, once. With `decode_all` the result is
    extraction's whatever the state of the file; without it, damage may go unnoticed that makes a decoder drop frames.

    Raises VideoError where extraction does: it cannot be opened, holds no video that can be decoded, or is cut short.
    """
    facts = read_facts(path)
    with open_video(path) as capture:
        if not capture.grab():
            raise VideoError(f"no frame could be decoded (codec {codec_name(capture)})")
        first_time, first_number = position(capture), capture.get(cv2.CAP_PROP_PTS)
        if not decode_all and (packets := _trusted_packets(path, facts, codec_name(capture), first_time)):
            times = [time for time, _ in packets]
            starts = [number for number, (_, is_start) in enumerate(packets) if is_start]
        else:
            times, starts = [first_time], None
            while capture.grab():
                times.append(position(capture))
    pacing = Pacing(facts, frame_rate, first_number)
    return Timeline(_paced(pacing, times), times, starts, frame_rate or facts.nominal_rate)


def _trusted_packets(path: Path, facts: VideoFacts, codec: str, first_time: float) -> list[tuple[float, bool]] | None:
    """(time, whether decoding can begin there) of each frame in the order shown; None where decoding may differ."""
    if facts.container not in _OWN_TIMES or codec == "VP80":  # VP8 stores frames that are never shown
        return None
    packets = sorted(read_packets(path))
    # Frames outside of an edit list are in the file, but not among the promised ones.
    hidden = facts.container == "mp4" and 0 < facts.promised_frames < len(packets) - 1
    if not packets or hidden or abs(packets[0][0] - first_time) > TIME_TOLERANCE or not packets[0][1]:
        return None
    distinct = all(later - earlier > 2 * TIME_TOLERANCE for (earlier, _), (later, _) in pairwise(packets))
    return packets if distinct else None


def _paced(pacing: Pacing, times: Iterable[float]) -> np.ndarray:
    copies = []
    for number, time in enumerate(times):
        repeats, count = pacing.add(time)
        copies += [number - 1] * repeats + [number] * count
    return np.array(copies + copies[-1:] * pacing.finish(), dtype=np.int64)
