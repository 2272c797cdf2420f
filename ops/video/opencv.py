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
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from ops.utils.files import has_utf8_name
from ops.video.errors import NotPlain, VideoError, check_readable
from ops.video.frame_timing import frames_at_rate, is_constant

_DECODER_LINE = re.compile(rb"^\[[^\]]+ @ 0x[0-9a-f]+\] *(.+)", re.MULTILINE)
_INTERLACED = "interlaced to progressive"  # in a decoder's line
_standard_error = threading.RLock()


class PlainVideo:
    """A plain video whose frames are decoded when they are asked for; the others on the way are never converted.

    frame_rate: per second, None for the file's own; height: that frames are scaled to, None for the file's own.
    `rate`: frames given per second. Raises VideoError, NotPlain where ffmpeg would do better.
    """

    def __init__(self, path: Path, frame_rate: float | None = None, height: int | None = None) -> None:
        self._path, self._height = path, height
        with _open(path) as capture:
            codec, self._file_rate = int(capture.get(cv2.CAP_PROP_FOURCC)), capture.get(cv2.CAP_PROP_FPS)
            promised, decoded = capture.get(cv2.CAP_PROP_FRAME_COUNT), False
            with suppress(NotPlain):  # the line below says as much
                decoded = _call(capture.grab)
            first = capture.get(cv2.CAP_PROP_PTS)
        if not decoded:
            name = (codec & 0xFFFFFFFF).to_bytes(4, "little").decode("latin-1")
            raise NotPlain(f"OpenCV decodes no frame of it (codec {name!r})")
        if first != 0:
            raise NotPlain("its picture does not start at time zero")
        self._read_packets()
        if not is_constant(self._times, self._file_rate):
            raise NotPlain("its frame rate varies")
        with path.open("rb") as file:
            head = file.read(12)
        # MP4 and AVI files state their number of frames, and have no sound before time zero.
        self._is_mp4 = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # old QuickTime files, too
        is_indexed = self._is_mp4 or (head[:4] == b"RIFF" and head[8:] == b"AVI ")
        if len(self._times) < (promised if is_indexed else 0.98 * promised - 5):
            raise NotPlain(f"cut short: the header promises {promised:.0f} frames, {len(self._times)} are there")
        if frame_rate is not None and not is_indexed:
            raise NotPlain("another frame rate needs to know when its sound starts")
        self.rate = frame_rate or self._file_rate
        self._given: Sequence[int] = range(len(self._times))  # the file's frame, 0.., that each of the given ones is
        if frame_rate is not None:
            self._given = frames_at_rate(self._times, self._file_rate, frame_rate)

    def __len__(self) -> int:
        """How many frames are given."""
        return len(self._given)

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `ops.video.frames.Video`: uint8 RGB [H, W, 3], turned upright. Raises VideoError."""
        for picture in self.pictures(numbers):
            yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)

    def decoded_with(self, numbers: Sequence[int], among: Sequence[int]) -> set[int]:
        """See `ops.video.frames.Video`; all, as decoding begins with the first frame each time."""
        return set(among)

    def pictures(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Likewise in OpenCV's BGR; a frame that is given several times is the same array."""
        picture, first, at, first_at, size, differ = None, None, -1, -1, 0, True
        with _open(self._path) as capture:
            for number in numbers:
                wanted = self._given[number - 1]
                if wanted != at:
                    while at < wanted:
                        at += 1
                        if not _call(capture.grab) or not self._is_at(capture, at):
                            raise NotPlain(f"damaged: frame {at + 1} of {len(self._times)} cannot be decoded")
                    decoded, image = _call(capture.retrieve)
                    if not decoded:
                        raise NotPlain(f"frame {wanted + 1} cannot be converted")
                    picture = image if self._height is None else scaled(image, self._height)
                    if first is None:
                        first, size, first_at, differ = image, image.shape[0] * image.shape[1], at, False
                    differ = differ or not np.array_equal(image, first)
                yield picture
        # Whether what is stored is too much, and too varied, for a picture that never changes.
        too_much = self._packets_differ and self._bytes > (100 + size / 1000) * len(self._times)
        if not differ and at > first_at and too_much:
            raise NotPlain("OpenCV gives one picture for all of its frames")

    def check_end(self) -> None:
        """Raises NotPlain where the last frame of an MP4 file is not at its place, as in one that hides some frames."""
        if not self._is_mp4:
            return
        last = len(self._times) - 1
        with _open(self._path) as capture:
            _call(capture.set, cv2.CAP_PROP_POS_FRAMES, last)
            if not _call(capture.grab) or not self._is_at(capture, last):
                raise NotPlain("its last frame cannot be found")

    def _read_packets(self) -> None:
        """Read all encoded frames, for their times in seconds; nothing is decoded."""
        self._bytes, different = 0, set()
        times = []
        with _open(self._path, raw=True) as capture:
            while _call(capture.grab):
                packet = capture.retrieve()[1]
                times.append(_position(capture))
                self._bytes += packet.size
                if len(different) < 2:
                    different.add(packet.tobytes())
        self._times, self._packets_differ = sorted(times), len(different) > 1

    def _is_at(self, capture: cv2.VideoCapture, number: int) -> bool:
        """Whether the frame grabbed last is the file's frame `number` by its time."""
        return abs(_position(capture) - self._times[number]) * self._file_rate < 0.5


def stated_lengths(videos: Sequence[Path]) -> list[tuple[float, float]]:
    """(frames, frames per second) as the headers say, nearly, of those of `videos` that say it."""
    lengths = []
    for video in videos:
        with suppress(VideoError), _open(video) as capture:
            frames, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
            if 0 < frames < 1e9 and 0 < rate < 1e6:
                lengths.append((frames, rate))
    return lengths


def write_frames(
    video: Path, folder: Path, name: Callable[[int], str], frame_rate: float | None, height: int, quality: int
) -> tuple[int, float]:
    """Write the frames of a plain video as JPEG files; returns how many, and how many per second.

    Args:
        video, folder: from where, to where.
        name: of the file of frame 1, 2, ...
        frame_rate, height: as for `PlainVideo`.
        quality: of the JPEG files, 0..100.

    Raises VideoError and OSError.
    """
    source, last, content = PlainVideo(video, frame_rate, height), None, b""
    try:
        for number, picture in enumerate(source.pictures(range(1, len(source) + 1)), start=1):
            if picture is not last:
                encoded, buffer = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
                if not encoded:
                    size = f"{picture.shape[1]} x {picture.shape[0]}"
                    raise VideoError(f"frame {number} of {size} pixels cannot be held by a JPEG file")
                last, content = picture, buffer.tobytes()
            (folder / name(number)).write_bytes(content)
    except cv2.error as error:
        raise VideoError(f"OpenCV: {error.err or error}") from None
    return len(source), source.rate


def scaled_size(height: int, width: int, new_height: int) -> tuple[int, int]:
    """(height, width) after scaling to `new_height` pixels: the width is rounded as in ffmpeg's `scale=-1:HEIGHT`."""
    return new_height, max(1, (2 * new_height * width + height) // (2 * height))


def scaled(image: np.ndarray, new_height: int) -> np.ndarray:
    """An image uint8 [H, W, 3] at the height that frames are written with."""
    height, width = scaled_size(*image.shape[:2], new_height)
    if (height, width) == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def prepare_worker() -> None:
    """What each of several processes does first: keep to one core, and keep the decoders' messages off the terminal."""
    cv2.setNumThreads(1)
    silence_decoders()


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


def _position(capture: cv2.VideoCapture) -> float:
    """When the frame grabbed last is shown, in seconds from the first one."""
    return capture.get(cv2.CAP_PROP_POS_MSEC) / 1000


@contextmanager
def _open(path: Path, raw: bool = False) -> Iterator[cv2.VideoCapture]:
    """OpenCV's reader for the time of the block; raw: of encoded frames. Raises VideoError."""
    check_readable(path)
    silence_decoders()
    os.environ.pop("OPENCV_FFMPEG_LOGLEVEL", None)  # errors are to be heard; read when the first video is opened
    parameters = [cv2.CAP_PROP_FORMAT, -1] if raw else [cv2.CAP_PROP_N_THREADS, 1]
    name, capture = os.path.abspath(path), None  # absolute, so that no part of it is taken for a protocol
    with path.open("rb") as file:
        if not has_utf8_name(name):
            name = f"/dev/fd/{file.fileno()}"
        with suppress(NotPlain):  # the line below says as much
            capture = _call(cv2.VideoCapture, name, cv2.CAP_FFMPEG, parameters)
    if capture is None or not capture.isOpened():
        raise NotPlain("cannot be read as a video (damaged, cut off, or none)")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # which 4.11 does not do by itself
    try:
        yield capture
    finally:
        _call(capture.release)
