"""Plain videos read with OpenCV: constant rate, progressive, starting at zero. Anything else is refused.

OpenCV gives every frame that it can decode, whenever it is shown, and hides what went wrong. So the encoded frames are
looked at first, for their times; while frames are decoded, what the decoder says on standard error is read. That is
also how interlaced videos are noticed: from version 4.13 on OpenCV cannot convert their frames, and gives a leftover
picture in place of each.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from ops.video.errors import NotPlain, VideoError, check_readable
from ops.video.frame_timing import frames_at_rate, is_constant

_EMPTY_EDIT = re.compile(
    rb"elst(?:\x00.{7}.{4}\xff{4}|\x01.{7}.{8}\xff{8})", re.DOTALL
)  # of MP4: a track that starts late
_DECODER_LINE = re.compile(rb"^\[[^\]]+ @ 0x[0-9a-f]+\] *(.+)", re.MULTILINE)
_INTERLACED = "interlaced to progressive"  # in a decoder's line
_standard_error = threading.Lock()


@dataclass(frozen=True)
class _Packets:
    """The M encoded frames of a file, in the order shown."""

    times: list[float]  # [M], seconds
    bytes: int  # of all
    differ: bool  # they are not all the same


class PlainVideo:
    """A plain video whose frames are decoded when they are asked for; the others on the way are never converted.

    frame_rate: per second, None for the file's own. `frames`: int64 [N], 0..M-1, the file's frame that each of the N
    given frames is; `rate`: per second, of these. Raises VideoError, NotPlain where ffmpeg would do better.
    """

    def __init__(self, path: Path, frame_rate: float | None = None) -> None:
        self._path, self._capture, self._at = path, None, -1
        with _open(path) as capture:
            codec, file_rate = _codec_name(capture), capture.get(cv2.CAP_PROP_FPS)
            promised, decoded = capture.get(cv2.CAP_PROP_FRAME_COUNT), False
            with suppress(NotPlain):  # the line below says as much
                decoded = _call(capture.grab)
            first = capture.get(cv2.CAP_PROP_PTS)
        if not decoded:
            raise NotPlain(f"OpenCV decodes no frame of it (codec {codec})")
        packets = _read_packets(path)
        container = _container(path)
        if first != 0:
            raise NotPlain("its picture does not start at time zero")
        if not is_constant(packets.times, file_rate):
            raise NotPlain("its frame rate varies")
        if len(packets.times) < (promised if container != "other" else 0.98 * promised - 5):
            raise NotPlain(f"cut short: the header promises {promised:.0f} frames, {len(packets.times)} are there")
        if frame_rate is not None and not _starts_with_its_sound(path, container):
            raise NotPlain("another frame rate needs to know when its sound starts")
        self._packets, self._file_rate = packets, file_rate
        self._shown: np.ndarray | None = None  # while every picture was this one
        self._shown_frame = -1
        self.rate = frame_rate or file_rate
        given = frames_at_rate(packets.times, file_rate, frame_rate) if frame_rate else range(len(packets.times))
        self.frames = np.array(given, dtype=np.int64)

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of these numbers (1..N, ascending) in that order: uint8 BGR [H, W, 3], turned upright; one that is
        given several times is the same array. Raises VideoError."""
        image, last = None, -1
        for number in numbers:
            wanted = int(self.frames[number - 1])
            if wanted != last:
                self._go_to(wanted)
                decoded, image = _call(self._capture.retrieve)
                if not decoded:
                    raise NotPlain(f"frame {wanted + 1} cannot be converted")
                last = wanted
                self._watch(wanted, image)
            yield image
        if self._shown is not None and last != self._shown_frame and self._holds_more(image):
            raise NotPlain("OpenCV gives one picture for all of its frames")

    def close(self) -> None:
        """Give back what is open; reading opens it again."""
        if self._capture is not None:
            _call(self._capture.release)
        self._capture, self._at = None, -1

    def check_end(self) -> None:
        """Raises NotPlain where the last frame is not at its place, as in an MP4 file that hides some of its frames."""
        last = len(self._packets.times) - 1
        with _open(self._path) as capture:
            _call(capture.set, cv2.CAP_PROP_POS_FRAMES, last)
            if not _call(capture.grab) or not self._is_at(capture, last):
                raise NotPlain("its last frame cannot be found")

    def _watch(self, number: int, image: np.ndarray) -> None:
        if self._shown_frame < 0:
            self._shown, self._shown_frame = image, number
        elif self._shown is not None and not np.array_equal(image, self._shown):
            self._shown = None

    def _holds_more(self, image: np.ndarray) -> bool:
        """Whether what is stored is too much, and too varied, for a picture [H, W, 3] that never changes."""
        still = 100 + image.shape[0] * image.shape[1] / 1000  # bytes that say "nothing changed", at most
        return self._packets.differ and self._packets.bytes > still * len(self._packets.times)

    def _go_to(self, wanted: int) -> None:
        """Grab up to the file's frame `wanted`. Raises NotPlain where a frame is missing or has another time."""
        if wanted < self._at:
            self.close()
        if self._capture is None:
            self._capture = _new_capture(self._path)
        while self._at < wanted:
            self._at += 1
            if not _call(self._capture.grab) or not self._is_at(self._capture, self._at):
                raise NotPlain(f"damaged: frame {self._at + 1} of {len(self._packets.times)} cannot be decoded")

    def _is_at(self, capture: cv2.VideoCapture, number: int) -> bool:
        """Whether the frame grabbed last is the file's frame `number` by its time."""
        return abs(_position(capture) - self._packets.times[number]) * self._file_rate < 0.5


def stated_length(path: Path) -> tuple[float, float]:
    """(frames, frames per second) as the header says, nearly. Raises VideoError where it says nothing."""
    with _open(path) as capture:
        frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    if not (0 < frames < 1e9 and 0 < rate < 1e6):
        raise VideoError("states no length")
    return frames, rate


def silence_decoders() -> None:
    """Keep OpenCV's own messages off the terminal, in this process: whoever calls it reports what failed."""
    getattr(cv2.utils, "logging", cv2).setLogLevel(2)  # errors only; OpenCV 5 moved the function


@cache
def _transcript() -> BinaryIO:
    """The file that takes what decoders say, one for the process."""
    return tempfile.TemporaryFile()


def _call(function: Callable, *arguments: Any) -> Any:
    """Call OpenCV; raises NotPlain with what its decoder says meanwhile, which otherwise goes to the terminal.

    One call at a time, as they share standard error, and one decoding thread per file, so that none says it later.
    """
    with _standard_error:
        said = _transcript()
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            result = function(*arguments)
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        if said.seek(0, os.SEEK_END):
            said.seek(0)
            line = _DECODER_LINE.search(said.read())
            said.seek(0)
            said.truncate()
            if line:
                why = line[1].decode(errors="replace").strip()
                raise NotPlain("interlaced" if _INTERLACED in why else f"damaged: the decoder says {why!r}")
    return result


def _read_packets(path: Path) -> _Packets:
    """Read all encoded frames; nothing is decoded."""
    times, size, different = [], 0, set()
    with _open(path, raw=True) as capture:
        while _call(capture.grab):
            _, packet = capture.retrieve()
            times.append(_position(capture))
            size += packet.size
            if len(different) < 2:
                different.add(packet.tobytes())
    return _Packets(sorted(times), size, len(different) > 1)


def _container(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mp4"
    return "avi" if head[:4] == b"RIFF" and head[8:] == b"AVI " else "other"


def _starts_with_its_sound(path: Path, container: str) -> bool:
    """Whether sound, if there is any, certainly starts with the picture: ffmpeg counts time from what comes first."""
    return container == "avi" or (container == "mp4" and not _EMPTY_EDIT.search(path.read_bytes()))


def _position(capture: cv2.VideoCapture) -> float:
    """When the frame grabbed last is shown, in seconds from the first one."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


def _codec_name(capture: cv2.VideoCapture) -> str:
    """The four letters of the codec, or their number."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    name = code.to_bytes(4, "little").decode("latin-1").strip("\0 ")
    return name if name.isalnum() else f"{code:#x}"


@contextmanager
def _open(path: Path, raw: bool = False) -> Iterator[cv2.VideoCapture]:
    """OpenCV's reader for the time of the block; raw: of encoded frames. Raises VideoError."""
    capture = _new_capture(path, raw)
    try:
        yield capture
    finally:
        _call(capture.release)


def _new_capture(path: Path, raw: bool = False) -> cv2.VideoCapture:
    check_readable(path)
    os.environ.pop("OPENCV_FFMPEG_LOGLEVEL", None)  # errors are to be heard; read when the first video is opened
    parameters = [cv2.CAP_PROP_FORMAT, -1] if raw else [cv2.CAP_PROP_N_THREADS, 1]
    with _openable(path) as name:
        capture = None
        with suppress(NotPlain):  # the line below says as much
            capture = _call(cv2.VideoCapture, name, cv2.CAP_FFMPEG, parameters)
    if capture is None or not capture.isOpened():
        raise NotPlain("cannot be read as a video (damaged, cut off, or none)")
    return capture


@contextmanager
def _openable(path: Path) -> Iterator[str]:
    """A name that OpenCV can open: absolute, so that no part of it is taken for a protocol, and valid UTF-8."""
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:  # a name in another encoding
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield name
