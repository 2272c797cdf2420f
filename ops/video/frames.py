"""Videos whose frames are read when they are asked for, the same frames as after extraction.

With the program ffmpeg: of a plain MP4 or Matroska file it decodes the frames that are asked for, from the last one
before them at which decoding can begin, and gives them as they are before they become published JPEG files. Any other
file, and every file at another frame rate, is extracted whole into a temporary folder by the published command, once.
Without the program, OpenCV reads plain files, and others are refused; see `ops.video.opencv`.
"""

import subprocess
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np

from ops.data.dataset import DECODERS, FrameReader
from ops.data.images import MAX_ASPECT
from ops.utils.errors import UserError
from ops.video import ffmpeg
from ops.video.errors import VideoError, check_readable
from ops.video.frame_folders import FrameSettings, FrameTemplate, make_frames
from ops.video.frame_timing import is_constant
from ops.video.opencv import PlainVideo

_WORTH_A_PROCESS = 250  # frames: of 640 x 360 pixels, decoding as many takes as long as one more start of ffmpeg
# The colours that a reader of the published JPEG files sees, which do not say that HDTV has other ones.
_AS_JPEG = (
    "format=yuvj420p|yuvj422p|yuvj444p,"
    "scale=in_color_matrix=bt601:in_range=full:flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24"
)


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

    def decoded_with(self, numbers: Sequence[int], among: Sequence[int]) -> set[int]:
        """Those of `among`, which holds `numbers`, that are better read with these than later: they are on the way."""


class VideoFile:
    """A video file. Its frames are those of `ops.video.extraction` with the same settings.

    decode_all: read it from end to end first, which finds all that can be read of a damaged file; needed where `read`
    says so. Raises VideoError.
    """

    def __init__(self, path: Path, settings: FrameSettings = FrameSettings(), decode_all: bool = False) -> None:
        self.path, self.replaced = path, 0
        self.all_decoded = True  # nothing more can be got out of the file with decode_all
        self._reader: PlainVideo | _FfmpegFrames | _ExtractedFrames
        if not settings.uses_ffmpeg:
            self._reader = PlainVideo(path, settings.frame_rate, settings.height)
            self._reader.check_end()  # extraction gets there anyway
        elif decode_all or settings.frame_rate or (found := _plain_packets(path)) is None:
            self._reader = _ExtractedFrames(path, settings)
        else:
            self._reader = _FfmpegFrames(path, settings, *found)
            self.all_decoded = False
        self.rate = self._reader.rate

    def __len__(self) -> int:
        return len(self._reader)

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """See `Video`. Raises VideoError too where a frame is missing that its packet promised: read it anew with
        `decode_all`, which gives what can be decoded."""
        for image in self._reader.read(numbers):
            short, long = sorted(image.shape[:2])
            if long > MAX_ASPECT * short:
                raise VideoError(f"{image.shape[1]} x {image.shape[0]} pixels is no frame of a video")
            yield image

    def decoded_with(self, numbers: Sequence[int], among: Sequence[int]) -> set[int]:
        """See `Video`."""
        return self._reader.decoded_with(numbers, among)


class _FfmpegFrames:
    """Frames of a plain file, picked by their time. starts: 0..count-1, the frames at which decoding can begin."""

    def __init__(self, path: Path, settings: FrameSettings, count: int, rate: float, starts: list[int]) -> None:
        self._path, self._settings, self._count, self.rate, self._starts = path, settings, count, rate, starts

    def __len__(self) -> int:
        return self._count

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        wanted = [number - 1 for number in numbers]
        for group in self._groups(sorted(set(wanted))):
            images = iter(self._run(group))
            for place in group:
                try:
                    image = next(images)
                except StopIteration:
                    raise VideoError(f"damaged: frame {place + 1} of {self._count} cannot be decoded") from None
                yield from [image] * wanted.count(place)

    def decoded_with(self, numbers: Sequence[int], among: Sequence[int]) -> set[int]:
        groups = list(self._groups([number - 1 for number in numbers]))
        decoded = [range(self._start_before(group[0]), group[-1] + 1) for group in groups]
        return {number for number in among if any(number - 1 in stretch for stretch in decoded)}

    def _start_before(self, place: int) -> int:
        return self._starts[bisect_right(self._starts, place) - 1]

    def _groups(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        """`wanted` in stretches, between which it pays to skip frames."""
        group: list[int] = []
        for place in wanted:
            if group and self._start_before(place) - group[-1] > _WORTH_A_PROCESS:
                yield group
                group = []
            group.append(place)
        if group:
            yield group

    def _run(self, group: Sequence[int]) -> Iterator[np.ndarray]:
        """Decode the frames `group` (0.., ascending)."""
        # Half a frame before the first one; times then count from there.
        seek = (group[0] - 0.5) / self.rate if group[0] > self._starts[0] else 0.0
        windows, first = [], group[0]
        for place, following in zip(group, [*group[1:], None], strict=True):
            if following != place + 1:
                low, high = ((edge - 0.5) / self.rate - seek for edge in (first, place + 1))
                windows.append(f"between(t,{low:.6f},{high:.6f})")
                first = following
        command = ["ffmpeg", "-nostdin", "-v", "error"]
        command += ["-threads", str(self._settings.decoder_threads)] if self._settings.decoder_threads else []
        command += ["-ss", f"{seek:.6f}"] if seek > 0 else []
        command += ["-i", ffmpeg.source_of(self._path), "-an", "-frames:v", str(len(group))]
        command += [ffmpeg.timing_option(), "passthrough"]
        command += ["-vf", f"select='{'+'.join(windows)}',scale=-1:{self._settings.height},{_AS_JPEG}"]
        command += ["-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            assert process.stdout is not None
            while process.stdout.readline():  # P6
                width, height = map(int, process.stdout.readline().split())
                process.stdout.readline()  # the largest level, 255
                picture = process.stdout.read(height * width * 3)
                if len(picture) < height * width * 3:
                    return
                yield np.frombuffer(picture, np.uint8).reshape(height, width, 3)
        finally:
            process.kill()  # of no effect on one that has ended
            process.communicate()


def _plain_packets(path: Path) -> tuple[int, float, list[int]] | None:
    """(frames, their rate, those at which decoding can begin) of a file whose every packet is one frame of the
    published command, shown at a constant rate from zero; None for any other. Nothing is decoded."""
    entries = "packet=pts_time,flags:stream=r_frame_rate,nb_frames:format=format_name,start_time"
    check_readable(path)
    probed = ffmpeg.probe(path, entries, "-select_streams", "V")
    streams, container = probed.get("streams", []), probed.get("format", {})
    seekable = {"mp4", "matroska"} & set(container.get("format_name", "").split(","))
    if probed["problems"] or len(streams) != 1 or not seekable:
        return None
    with suppress(KeyError, ValueError, ZeroDivisionError):  # a packet without a time, a rate of 0/0
        start, rate = float(container["start_time"]), float(Fraction(streams[0]["r_frame_rate"]))
        packets = sorted((float(packet["pts_time"]) - start, packet["flags"]) for packet in probed["packets"])
        hidden = any("D" in flags for _, flags in packets)
        complete = int(streams[0].get("nb_frames", len(packets))) == len(packets)
        if not hidden and complete and "K" in packets[0][1] and is_constant([time for time, _ in packets], rate):
            return len(packets), rate, [place for place, (_, flags) in enumerate(packets) if "K" in flags]
    return None


class FrameFolder:
    """A folder of frames, numbered from 1, as `ops.video_jpg` makes it. A frame that cannot be decoded is replaced by
    the nearest good one, and counted in `replaced`. Raises VideoError for a folder without frames."""

    def __init__(self, folder: Path, template: str, decode: str = DECODERS[0]) -> None:
        numbers = FrameTemplate.parse(template).numbers(folder)
        if not numbers:
            raise VideoError(f"holds no frame {template.format(1)}")
        self._reader = FrameReader(folder.name, str(folder), template, max(numbers), "extract it again", decode)
        self.rate: float | None = None

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

    def decoded_with(self, numbers: Sequence[int], among: Sequence[int]) -> set[int]:
        """See `Video`; each has a file of its own."""
        return set(numbers)


class _ExtractedFrames(FrameFolder):
    """Frames of a temporary folder that the published command fills; it goes with the object."""

    def __init__(self, path: Path, settings: FrameSettings) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="frames_of_a_video_")
        frames = Path(self._folder.name) / "frames"
        made = make_frames(path, frames, settings)
        super().__init__(frames, settings.template.for_format)
        self.rate = made.rate or None

    def read(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        try:
            yield from super().read(numbers)
        except VideoError as error:  # which names the temporary folder
            raise VideoError("none of its frames can be read as pictures") from error
