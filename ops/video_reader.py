"""A video file -> frames at a constant rate, read with OpenCV as a stream.

OpenCV tells most of what `ops.frame_timing` needs. A few bytes of the file's header tell the rest: whether there is
sound (then the picture may start late, and ffmpeg repeats the first frame until then), how much of an MP4 file its edit
list shows, and whether a Matroska or WebM file was cut off.
"""

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from ops.frame_timing import ConstantRate, is_cut_short, nominal_rate

PROBED_PACKETS = 90  # about as many as libavformat looks at for the nominal rate of an H.264 file
_HEAD_BYTES = 1 << 20  # of a Matroska file; its list of tracks is among them
_SLACK = 0.01  # share of the promised frames that may be missing
_LOOSE_SLACK = 0.15  # Matroska and WebM state the length of the longest track, which may be the sound
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_AUDIO_CODEC_ID = re.compile(rb"\x86[\x80-\xff]A_")


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
    with _capture(path) as capture:
        average_rate = capture.get(cv2.CAP_PROP_FPS)
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    if not (0 < average_rate < 1e6):
        raise VideoError("states no frame rate")
    container, has_audio, shown_seconds, complete = _read_header(path)
    if shown_seconds is not None:
        promised = min(promised, shown_seconds * average_rate)
    rate = average_rate
    if container == "mp4":  # the others state their nominal rate
        with suppress(VideoError):  # a codec whose packets OpenCV cannot hand out
            rate = nominal_rate(average_rate, list(islice(_packet_times(path), PROBED_PACKETS)))
    slack = _LOOSE_SLACK if container == "matroska" and complete and has_audio else _SLACK
    return VideoFacts(container, has_audio, average_rate, rate, promised, slack)


def count_packets(path: Path) -> int:
    """How many encoded frames the file holds; nothing is decoded. Raises VideoError where it cannot be opened."""
    return sum(1 for _ in _packet_times(path))


def read_frames(
    path: Path, frame_rate: float | None = None, decoder_threads: int = 0
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Yield (copies, image) in order: uint8 BGR [H, W, 3], turned upright; None stands for the image given last.

    The copies together are the frames at `frame_rate` per second, by default the file's nominal rate. Images that are
    left out are decoded but never converted. `decoder_threads`: 0 leaves the choice to OpenCV.

    Raises VideoError, at the end too: where no frame could be decoded, or clearly fewer than the header promises.
    """
    facts = read_facts(path)
    pacing = ConstantRate(frame_rate or facts.nominal_rate, facts.nominal_rate)
    read, seconds, opening, clock_start, late = 0, 0.0, 0.0, 0.0, 0.0
    with _capture(path, decoder_threads) as capture:
        codec = _codec_name(capture)
        while capture.grab():
            now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000  # OpenCV's clock starts with the first picture
            if read == 0:
                # Since the file's zero, to a whole frame; hugely negative where there is no frame rate to count in.
                late = max(capture.get(cv2.CAP_PROP_PTS), 0.0) / facts.average_rate
                # With sound, the file is taken to start at its zero; without, with the picture.
                opening = late if facts.has_audio else 0.0
                clock_start, seconds = now - opening, opening
            elif now - clock_start > seconds:
                seconds = now - clock_start
            else:  # no timestamp, as in the last frames of an AVI file with B-frames
                seconds += 1 / facts.average_rate
            read += 1
            repeats, copies = pacing.add(seconds)
            if repeats:
                yield repeats, None
            if copies:
                decoded, image = capture.retrieve()
                if not decoded:
                    raise VideoError(f"frame {read} could not be converted")
                yield copies, image
    if read == 0:
        raise VideoError(f"no frame could be decoded (codec {codec}); perhaps --backend ffmpeg can")
    lasts = seconds - opening + 1 / facts.average_rate
    if facts.container == "matroska":  # states where the file ends, counted from its zero
        lasts += late
    if facts.cut_short(read, lasts):
        raise VideoError(f"cut short: the header promises {facts.promised_frames:.0f} frames, {read} could be decoded")
    repeats = pacing.finish()
    if repeats:
        yield repeats, None


def _codec_name(capture: cv2.VideoCapture) -> str:
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    name = code.to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return name if name.isalnum() else f"{code:#x}"


def _packet_times(path: Path) -> Iterator[float]:
    with _capture(path, raw=True) as capture:
        while capture.grab():
            yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


@contextmanager
def _capture(path: Path, decoder_threads: int = 0, raw: bool = False) -> Iterator[cv2.VideoCapture]:
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


def _read_header(path: Path) -> tuple[str, bool, float | None, bool]:
    """(container, has sound, seconds shown by the edit list of an MP4 file, whether all bytes promised are there)."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD_BYTES)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                return "mp4", *_read_movie_box(file, size), True
            if head[:4] == _EBML.to_bytes(4, "big"):
                return "matroska", bool(_AUDIO_CODEC_ID.search(head)), None, _segment_end(head) <= size
            if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
                return "avi", b"auds" in head[:65536], None, True
    except (OSError, struct.error, IndexError):  # OpenCV could open it: go on with what it says
        pass
    return "other", False, None, True


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an MP4 file between two offsets: (type, start of the content, end)."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            size = struct.unpack(">Q", file.read(8))[0]
            content += 8
        box_end = end if size == 0 else min(start + size, end)
        if box_end < content:
            return
        yield kind, content, box_end
        start = box_end


def _read_movie_box(file: BinaryIO, size: int) -> tuple[bool, float | None]:
    """Whether there is a sound track, and how long the edit list shows the first video track, if there is one."""
    has_audio, shown_seconds, found_video, timescale = False, None, False, 0
    for box, start, end in _boxes(file, 0, size):
        if box != b"moov":
            continue
        for inner, inner_start, inner_end in _boxes(file, start, end):
            if inner == b"mvhd":
                file.seek(inner_start)
                version = file.read(1)[0]
                file.seek(inner_start + (20 if version else 12))
                timescale = struct.unpack(">I", file.read(4))[0]
            elif inner == b"trak":
                handler, units = _read_track_box(file, inner_start, inner_end)
                has_audio = has_audio or handler == b"soun"
                if handler == b"vide" and not found_video:
                    found_video = True
                    shown_seconds = units / timescale if units and timescale else None
    return has_audio, shown_seconds


def _read_track_box(file: BinaryIO, start: int, end: int) -> tuple[bytes, int]:
    """(kind of track, length of its edits in units of the movie's time scale, 0 where it has none)."""
    handler, units = b"", 0
    for box, box_start, box_end in _boxes(file, start, end):
        for inner, inner_start, _ in _boxes(file, box_start, box_end) if box in (b"mdia", b"edts") else ():
            file.seek(inner_start)
            if inner == b"hdlr":
                handler = file.read(12)[8:]
            elif inner == b"elst":
                version, count = struct.unpack(">B3xI", file.read(8))
                entry = struct.Struct(">QqI" if version else ">IiI")
                for _ in range(count):
                    duration, media_time, _rate = entry.unpack(file.read(entry.size))
                    units += duration if media_time >= 0 else 0  # negative: nothing is shown yet
    return handler, units


def _segment_end(head: bytes) -> int:
    """The offset at which a Matroska file says it ends; 0 where it does not say."""
    position = 0
    while position + 12 <= len(head):
        kind = int.from_bytes(head[position : position + 4], "big")
        length = 9 - head[position + 4].bit_length()  # of the size field
        mask = (1 << (7 * length)) - 1
        content = int.from_bytes(head[position + 4 : position + 4 + length], "big") & mask
        position += 4 + length
        if kind == _SEGMENT:
            return 0 if content == mask else position + content
        if kind != _EBML:
            return 0
        position += content
    return 0
