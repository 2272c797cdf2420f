"""Videos whose frames are decoded when they are asked for, the same pixels as after extraction.

What is decoded: a codec stores most frames as changes to earlier ones, so a wanted frame needs those back to the last
one that stands alone. Frames in between are decoded, but never converted to RGB; where a stretch between two wanted
frames holds one that stands alone, the frames before that are skipped over. Formats without such an index are decoded
from the start, once for the glance and once for the focus.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from ops.data.dataset import BACKENDS, FrameReader
from ops.data.images import MAX_ASPECT
from ops.utils.errors import UserError
from ops.video.frame_folders import DEFAULT_HEIGHT, FrameTemplate, scaled
from ops.video.reader import VideoError, open_video, position, retrieve
from ops.video.timeline import Timeline, read_timeline

# Sent to a frame, OpenCV goes back 16 frames' time, then to where decoding can begin, and from there counts frames.
_OPENCV_STEP = 16
_SEEK_MARGIN = _OPENCV_STEP + 3  # frames from where decoding begins to a wanted one, for rounding not to pass it


class Video(Protocol):
    """One video, whatever it is stored as.

    rate: frames per second, None where that is not known; replaced: how many frames read were others than asked for.
    """

    rate: float | None
    replaced: int

    def __len__(self) -> int:
        """How many frames it has, at the constant rate it is read at."""

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of these numbers (1..N, ascending) in that order: uint8 RGB [H, W, 3]. Raises VideoError."""

    def close(self) -> None:
        """Give back what is open; reading opens it again."""


class VideoFile:
    """A video file. Its frames are those of `ops.video.extraction` at the same rate and height, before they are JPEG.

    frame_rate: per second, None for the file's own; height: of the frames, in pixels; decoder_threads: 0 leaves the
    choice to OpenCV; decode_all: see `read_timeline`; needed where `read` says so. Raises VideoError.
    """

    def __init__(
        self,
        path: Path,
        frame_rate: float | None = None,
        height: int = DEFAULT_HEIGHT,
        decoder_threads: int = 0,
        decode_all: bool = False,
    ) -> None:
        self.path, self.height, self._threads = path, height, decoder_threads
        self.timeline: Timeline = read_timeline(path, frame_rate, decode_all=decode_all)
        self.rate, self.replaced = self.timeline.rate, 0
        self._opened = ExitStack()
        self._capture: cv2.VideoCapture | None = None
        self._at = -1  # the file's frame grabbed last
        self._starts = self.timeline.starts

    def __len__(self) -> int:
        return len(self.timeline.frames)

    @property
    def all_decoded(self) -> bool:
        """Whether the timeline is certain, as all frames were decoded for it."""
        return self.timeline.starts is None

    def close(self) -> None:
        """See `Video`."""
        self._opened.close()
        self._capture, self._at = None, -1

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Video`. Raises VideoError too where a frame is missing that its packet promised: read it anew with
        `decode_all`, which gives what can be decoded."""
        last, image = -1, None
        for number in numbers:
            wanted = int(self.timeline.frames[number - 1])
            if wanted != last:
                self._go_to(wanted)
                last, image = wanted, self._convert()
            yield image

    def _convert(self) -> np.ndarray:
        image = retrieve(self._capture, self._at + 1)
        short, long = sorted(image.shape[:2])
        if long > MAX_ASPECT * short:
            raise VideoError(f"{image.shape[1]} x {image.shape[0]} pixels is no frame of a video")
        return cv2.cvtColor(scaled(image, self.height), cv2.COLOR_BGR2RGB)

    def _go_to(self, wanted: int) -> None:
        """Grab the file's frame `wanted`, the quickest way that certainly leads there."""
        if self._starts is not None:
            start = self._starts[max(bisect_right(self._starts, wanted - _SEEK_MARGIN) - 1, 0)]
            worthwhile = start > 0 and (start > self._at + 1 or wanted < self._at)
            if worthwhile and not self._seek(start, wanted):
                self._starts = None
        if self._capture is None or wanted < self._at:
            self.close()
            self._capture = self._opened.enter_context(open_video(self.path, self._threads))
        while self._at < wanted:
            if not self._capture.grab():
                raise VideoError(f"damaged: frame {wanted + 1} of {len(self.timeline.times)} cannot be decoded")
            self._at = self._number(self._at + 1)

    def _seek(self, start: int, wanted: int) -> bool:
        """Begin decoding at `start`, and get to `wanted` or before; whether that worked, as times may mislead."""
        if self._capture is None:
            self._capture = self._opened.enter_context(open_video(self.path, self._threads))
        start_by_time = round(self.timeline.times[start] * self._capture.get(cv2.CAP_PROP_FPS))
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, start_by_time + _OPENCV_STEP + 1)
        if self._capture.grab():
            found = self.timeline.index_at(position(self._capture))
            if found is not None and found <= wanted:
                self._at = found
                return True
        self.close()
        return False

    def _number(self, expected: int) -> int:
        """The file's frame grabbed last; by its time where the timeline comes from packets. Raises VideoError."""
        if self.all_decoded:
            return expected
        found = self.timeline.index_at(position(self._capture))
        if found != expected:
            raise VideoError(f"damaged: frame {expected + 1} of {len(self.timeline.times)} cannot be decoded")
        return found


class FrameFolder:
    """A folder of frames, numbered from 1, as `ops.video_jpg` makes it. A frame that cannot be decoded is replaced by
    the nearest good one, and counted in `replaced`. Raises VideoError for a folder without frames."""

    def __init__(self, folder: Path, template: str, decode: str = BACKENDS[0]) -> None:
        numbers = FrameTemplate.parse(template).numbers(folder)
        if not numbers:
            raise VideoError(f"holds no frame {template.format(1)}")
        self._reader = FrameReader(folder.name, str(folder), template, max(numbers), "extract it again", decode)
        self.rate = None

    def __len__(self) -> int:
        return self._reader.num_frames

    @property
    def replaced(self) -> int:
        """How many of the frames read so far were another than asked for."""
        return self._reader.replaced

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Video`. Raises VideoError where not one frame can be decoded."""
        try:
            yield from (np.asarray(self._reader.read(number)) for number in numbers)
        except UserError as error:
            raise VideoError(str(error)) from error

    def close(self) -> None:
        """See `Video`; nothing is kept open."""
