"""A batch of videos for the network, which decodes the frames that it asks for.

with ThreadPoolExecutor() as threads:
    source = VideoBatch([SegmentReader(VideoFile(path), model)], threads)  # an `ops.frame_sources.FrameSource`
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
from ops import transforms
from ops.dataset import BACKENDS
from ops.video_frames import Video
from ops.video_reader import VideoError

READING_ERRORS = (VideoError, OSError, cv2.error)


class BrokenVideos(Exception):
    """Videos of a batch that cannot be read, by their number in it, each with the reason."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class SegmentReader:
    """One video with evaluation's segments and preprocessing for the model; no frame is decoded twice.

    decode: as for `VideoDataset`. `numbers`: the frame of each segment, int64 [T], 1..N, ascending; a short video shows
    some of its frames repeatedly.
    """

    def __init__(self, video: Video, model: UniAdaFocus, decode: str = BACKENDS[0]) -> None:
        self.video, self._size, self._decode = video, model.input_size, decode
        self.numbers = transforms.evaluation_frames(num_frames=len(video), num_segments=model.num_segments)
        self._kept: dict[int, Tensor] = {}  # by segment

    def read(self, segments: Sequence[int]) -> list[Tensor]:
        """The frames of segments (0..T-1), uint8 [3, S, S] each. Raises one of `READING_ERRORS`."""
        missing = sorted(set(segments) - self._kept.keys())
        if missing:
            frames = self.video.read(self.numbers[missing].tolist())
            view_of = partial(transforms.evaluation_view, input_size=self._size)
            if self._decode == "pillow":
                clip = transforms.pillow_clip(map(Image.fromarray, frames), input_size=self._size, view_of=view_of)
            else:
                clip = transforms.fast_clip(frames, num_frames=len(missing), input_size=self._size, view_of=view_of)
            self._kept.update(zip(missing, clip, strict=True))
        return [self._kept[segment] for segment in segments]


class VideoBatch:
    """Videos as a `FrameSource`."""

    def __init__(self, readers: Sequence[SegmentReader], threads: Executor) -> None:
        self._readers, self._threads = readers, threads

    def __len__(self) -> int:
        return len(self._readers)

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """See `FrameSource`. Raises BrokenVideos; the readers of the others keep what they have read."""

        def read(video: int, row: list[int]) -> list[Tensor] | str:
            try:
                return self._readers[video].read(row)
            except READING_ERRORS as error:
                return reason(error)

        found = list(self._threads.map(read, videos.tolist(), segments.tolist()))
        if broken := {video: why for video, why in zip(videos.tolist(), found, strict=True) if isinstance(why, str)}:
            raise BrokenVideos(broken)
        frames = [frame.permute(1, 2, 0) for row in found for frame in row]
        return torch.stack(frames).permute(0, 3, 1, 2)  # channels last in memory


def reason(error: Exception) -> str:
    """Why a video could not be read, in one line."""
    if isinstance(error, cv2.error):
        return f"OpenCV: {error.err or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
