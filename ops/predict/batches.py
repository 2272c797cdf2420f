"""A batch of videos for the network, which decodes the frames that it asks for.

with ThreadPoolExecutor() as threads:
    source = VideoBatch([SegmentReader(VideoFile(path), model)], threads)  # an `ops.data.sources.FrameSource`
    result = EarlyExitInference(model, thresholds, "confidence")(source)
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

import cv2
import torch
from PIL import Image
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.data import transforms
from ops.data.dataset import DECODERS
from ops.video.errors import VideoError
from ops.video.frames import Video

READING_ERRORS = (VideoError, OSError, cv2.error)


class SegmentReader:
    """One video with evaluation's segments and preprocessing for the model; no frame is decoded twice.

    decode: as for `VideoDataset`. `numbers`: the frame of each segment, int64 [T], 1..N, ascending; a short video shows
    some of its frames repeatedly.
    """

    def __init__(self, video: Video, model: UniAdaFocus, decode: str = DECODERS[0]) -> None:
        self.video, self.size, self._decode = video, model.input_size, decode
        self.numbers = transforms.evaluation_frames(num_frames=len(video), num_segments=model.num_segments)
        self._kept: dict[int, Tensor] = {}  # by segment

    def read(self, segments: Sequence[int]) -> list[Tensor]:
        """The frames of segments (0..T-1), uint8 [3, S, S] each. Raises one of `READING_ERRORS`."""
        missing = sorted(set(segments) - self._kept.keys())
        if missing:
            numbers = self.numbers.tolist()
            decoded = self.video.decoded_with([numbers[segment] for segment in missing], numbers)
            missing = [place for place, number in enumerate(numbers) if number in decoded and place not in self._kept]
            frames = self.video.read(self.numbers[missing].tolist())
            view_of = partial(transforms.evaluation_view, input_size=self.size)
            if self._decode == "pillow":
                clip = transforms.pillow_clip(map(Image.fromarray, frames), input_size=self.size, view_of=view_of)
            else:
                clip = transforms.fast_clip(frames, num_frames=len(missing), input_size=self.size, view_of=view_of)
            self._kept.update(zip(missing, clip, strict=True))
        return [self._kept[segment] for segment in segments]


class VideoBatch:
    """Videos as a `FrameSource`.

    `broken`: the reason why a video cannot be read, by its number in the batch. The network gets black frames in its
    place, so that the rest of the batch goes on.
    """

    def __init__(self, readers: Sequence[SegmentReader], threads: Executor) -> None:
        self.readers, self._threads = readers, threads
        self.broken: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.readers)

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """See `FrameSource`."""
        found = self._threads.map(self._read, videos.tolist(), segments.tolist())
        frames = [frame.permute(1, 2, 0) for of_video in found for frame in of_video]
        return torch.stack(frames).permute(0, 3, 1, 2)  # channels last in memory

    def _read(self, video: int, segments: list[int]) -> list[Tensor]:
        reader = self.readers[video]
        if video not in self.broken:
            try:
                return reader.read(segments)
            except READING_ERRORS as error:
                self.broken[video] = reason(error)
        return [torch.zeros(3, reader.size, reader.size, dtype=torch.uint8)] * len(segments)


def reason(error: Exception) -> str:
    """Why a video could not be read, in one line."""
    if isinstance(error, cv2.error):
        return f"OpenCV: {error.err or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
