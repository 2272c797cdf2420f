"""A video file -> frames at a constant rate, read with OpenCV as a stream.

OpenCV tells most of what `ops.video.frame_timing` needs; `ops.video.header` tells the rest.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ops.video.frame_timing import ConstantRate, is_cut_short, nominal_rate
from ops.video.header import read_header

PROBED_PACKETS = 90  # about as many as libavformat looks at for the nominal rate of an H.264 file
_H264_START = re.compile(rb"\x00\x00\x01[\x05\x25\x45\x65]")  # a slice that needs no earlier frame (IDR)
_SLACK = 0.01  # share of the promised frames that may be missing
_LOOSE_SLACK = 0.15  # Matroska and WebM state the length of the longest track, which may be the sound


class VideoError(Exception):
    """A video that cannot be turned into frames; the message says why in a few words."""


@dataclass(frozen=True)
class VideoFacts:
    """What the header of a file says, as far as it is needed to time its frames."""

    container: str  # "mp4", "matroska" (WebM too), "avi" or "other"
    has_audio: bool
    average_rate: float  # frames per second
    nominal_rate: float  # frames per second; a file whose rate varies keeps to this grid, or nearly
    promised_frames: float  # <= 0 where not stated
    slack: float  # share of the promised frames that may be missing

    def cut_short(self, frames: int, seconds: float) -> bool:
        """Whether `frames` frames that last until `seconds` are clearly less than promised."""
        return is_cut_short(
            self.promised_frames, self.promised_frames / self.average_rate, frames, seconds, slack=self.slack
        )


def silence_decoders() -> None:
    """Keep the decoders' messages off the terminal, in this process: whoever calls them reports what failed."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first video is opened
    getattr(cv2.utils, "logging", cv2).setLogLevel(2)  # errors only; OpenCV 5 moved the function


def read_facts(path: Path) -> VideoFacts:
    """Read the header of a video. Raises VideoError where it cannot be opened or holds no video."""
    with open_video(path) as capture:
        average_rate = capture.get(cv2.CAP_PROP_FPS)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if not (0 < average_rate < 1e6):
        raise VideoError("states no frame rate")
    container, has_audio, shown_seconds, complete = read_header(path)
    if shown_seconds is not None:
        promised = min(promised, shown_seconds * average_rate)
    rate = average_rate
    if container == "mp4":  # the others state their nominal rate
        with suppress(VideoError):  # a codec whose packets OpenCV cannot hand out
            rate = nominal_rate(average_rate, [time for time, _ in islice(read_packets(path), PROBED_PACKETS)])
    slack = _LOOSE_SLACK if container == "matroska" and complete and has_audio else _SLACK
    return VideoFacts(container, has_audio, average_rate, rate, promised, slack)


def count_packets(path: Path) -> int:
    """How many encoded frames the file holds; nothing is decoded. Raises VideoError where it cannot be opened."""
    return sum(1 for _ in read_packets(path))


def read_frames(
    path: Path, frame_rate: float | None = None, decoder_threads: int = 0
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yield (copies, image) in order: uint8 BGR [H, W, 3], turned upright; None stands for the image given last.

    The copies together are the frames at `frame_rate` per second, by default the file's nominal rate. Images that are
    left out are decoded but never converted. `decoder_threads`: 0 leaves the choice to OpenCV.

    Raises VideoError, at the end too: where no frame could be decoded, or clearly fewer than the header promises.
    """
    facts = read_facts(path)
    pacing = None
    with open_video(path, decoder_threads) as capture:
        while capture.grab():
            if pacing is None:
                pacing = Pacing(facts, frame_rate, capture.get(cv2.CAP_PROP_PTS))
            repeats, copies = pacing.add(position(capture))
            if repeats:
                yield repeats, None
            if copies:
                yield copies, retrieve(capture, pacing.read)
        if pacing is None:
            raise VideoError(f"no frame could be decoded (codec {codec_name(capture)}); perhaps --backend ffmpeg can")
    repeats = pacing.finish()
    if repeats:
        yield repeats, None


class Pacing:
    """How often each frame of a file is given at a constant rate, from what OpenCV says of one frame after the other.

    frame_rate: per second, None for the nominal rate; first_frame: OpenCV's number (CAP_PROP_PTS) of the first frame.
    """

    def __init__(self, facts: VideoFacts, frame_rate: float | None, first_frame: float) -> None:
        self._facts = facts
        self._rate = ConstantRate(frame_rate or facts.nominal_rate, facts.nominal_rate)
        # Since the file's zero, to a whole frame; hugely negative where there is no frame rate to count in.
        self._late = max(first_frame, 0.0) / facts.average_rate
        # With sound, the file is taken to start at its zero; without, with the picture.
        self._opening = self._late if facts.has_audio else 0.0
        self._clock_start = self._seconds = 0.0
        self.read = 0  # frames so far

    def add(self, now: float) -> tuple[int, int]:
        """Take the next frame, with its `position`; returns (repeats of the frame given last, copies of this one)."""
        if self.read == 0:  # OpenCV's clock starts with the first picture
            self._clock_start, self._seconds = now - self._opening, self._opening
        elif now - self._clock_start > self._seconds:
            self._seconds = now - self._clock_start
        else:  # no timestamp, as in the last frames of an AVI file with B-frames
            self._seconds += 1 / self._facts.average_rate
        self.read += 1
        return self._rate.add(self._seconds)

    def finish(self) -> int:
        """How often the last frame is repeated at the end. Raises VideoError where the header promises clearly more."""
        facts = self._facts
        lasts = self._seconds - self._opening + 1 / facts.average_rate
        if facts.container == "matroska":  # states where the file ends, counted from its zero
            lasts += self._late
        if facts.cut_short(self.read, lasts):
            raise VideoError(
                f"cut short: the header promises {facts.promised_frames:.0f} frames, {self.read} could be decoded"
            )
        return self._rate.finish()


def position(capture: cv2.VideoCapture) -> float:
    """When the frame grabbed last is shown, in seconds by OpenCV's clock."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def retrieve(capture: cv2.VideoCapture, number: int) -> np.ndarray:
    """The frame grabbed last, the file's `number`th, converted: uint8 BGR [H, W, 3]. Raises VideoError."""
    decoded, image = capture.retrieve()
    if not decoded:
        raise VideoError(f"frame {number} could not be converted")
    return image


def codec_name(capture: cv2.VideoCapture) -> str:
    """The four letters of the codec, or their number."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    name = code.to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return name if name.isalnum() else f"{code:#x}"


def read_packets(path: Path) -> Iterator[tuple[float, bool]]:
    """(when it is shown, in seconds; whether decoding can begin there) of each encoded frame, as stored; nothing is
    decoded. Raises VideoError where it cannot be opened."""
    with open_video(path, raw=True) as capture:
        is_h264 = codec_name(capture).lower() in ("h264", "avc1", "avc3", "x264")
        while capture.grab():
            is_start = capture.get(cv2.CAP_PROP_LRF_HAS_KEY_FRAME) > 0
            if is_start and is_h264:  # a picture that is refreshed bit by bit is taken for a start too
                _, packet = capture.retrieve()
                is_start = _H264_START.search(packet) is not None
            yield position(capture), is_start


@contextmanager
def open_video(path: Path, decoder_threads: int = 0, raw: bool = False) -> Iterator[cv2.VideoCapture]:
    """OpenCV's reader for the time of the block; raw: of encoded frames. Raises VideoError."""
    parameters = []
    if decoder_threads:
        parameters += [cv2.CAP_PROP_N_THREADS, decoder_threads]
    if raw:
        parameters += [cv2.CAP_PROP_FORMAT, -1]
    with _openable(path) as name:
        capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, parameters)
        try:
            if not capture.isOpened():
                raise VideoError("cannot be opened as a video (damaged, cut off, or without a video track)")
            yield capture
        finally:
            capture.release()


@contextmanager
def _openable(path: Path) -> Iterator[str]:
    """A name that OpenCV can open: absolute, so that no part of it is taken for a protocol, and valid UTF-8."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise VideoError(f"cannot be read ({error.strerror})") from None
    if size == 0:
        raise VideoError("is an empty file")
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:  # a name in another encoding
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name
