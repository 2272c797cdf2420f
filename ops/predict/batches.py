"""A batch of videos for the network, which decodes the frames that it asks for.

with ThreadPoolExecutor() as threads:
    source = VideoBatch([VideoFile(path)], model, threads)  # an `ops.data.sources.FrameSource`
    answer = EarlyExitInference(model, thresholds, "confidence")(source)
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.data import transforms
from ops.data.dataset import BACKENDS
from ops.video.errors import VideoError
from ops.video.frames import Video

READING_ERRORS = (VideoError, OSError, cv2.error)


class BrokenVideos(Exception):
    """Videos of a batch that cannot be read, by their number in it, each with the reason."""

    def __init__(self, reasons: dict[int, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons


class VideoBatch:
    """Videos as a `FrameSource`: evaluation's segments and preprocessing; no frame is decoded twice.

    decode: as for `VideoDataset`.
    """

    def __init__(
        self, videos: Sequence[Video], model: UniAdaFocus, threads: Executor, decode: str = BACKENDS[0]
    ) -> None:
        self.videos, self._model, self._threads, self._decode = list(videos), model, threads, decode
        self._kept: list[dict[int, Tensor]] = [{} for _ in videos]  # uint8 [3, S, S] by segment

    def __len__(self) -> int:
        return len(self.videos)

    def frame_numbers(self, video: int) -> np.ndarray:
        """The frame of each segment, int64 [T], 1..N, ascending; a short video shows some of its frames repeatedly."""
        segments = self._model.num_segments
        return transforms.evaluation_frames(num_frames=len(self.videos[video]), num_segments=segments)

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """See `FrameSource`. Raises BrokenVideos; what was read of the others is kept, for `with_changes`."""
        wanted = list(zip(videos.tolist(), segments.tolist(), strict=True))
        reasons = dict(self._threads.map(lambda task: (task[0], self._keep(*task)), wanted))
        if broken := {video: reason for video, reason in reasons.items() if reason}:
            raise BrokenVideos(broken)
        frames = [self._kept[video][segment].permute(1, 2, 0) for video, row in wanted for segment in row]
        return torch.stack(frames).permute(0, 3, 1, 2)  # channels last in memory

    def with_changes(self, changes: Mapping[int, Video | None]) -> "VideoBatch":
        """A batch in which some videos are others, or left out (None); of the rest, what was read is kept."""
        videos = [changes.get(number, video) for number, video in enumerate(self.videos)]
        batch = VideoBatch([video for video in videos if video is not None], self._model, self._threads, self._decode)
        kept = [{} if number in changes else frames for number, frames in enumerate(self._kept)]
        batch._kept = [frames for frames, video in zip(kept, videos, strict=True) if video is not None]
        return batch

    def _keep(self, video: int, segments: Sequence[int]) -> str:
        """Read what is not there yet of a video; returns the reason why that failed, empty where it did not."""
        kept, size = self._kept[video], self._model.input_size
        missing = sorted(set(segments) - kept.keys())
        if not missing:
            return ""
        numbers = self.frame_numbers(video)[missing].tolist()
        view_of = partial(transforms.evaluation_view, input_size=size)
        try:
            frames = self.videos[video].read(numbers)
            if self._decode == "pillow":
                clip = transforms.pillow_clip(map(Image.fromarray, frames), input_size=size, view_of=view_of)
            else:
                clip = transforms.fast_clip(frames, num_frames=len(numbers), input_size=size, view_of=view_of)
        except READING_ERRORS as error:
            return reason(error)
        kept.update(zip(missing, clip, strict=True))
        return ""


def reason(error: Exception) -> str:
    """Why a video could not be read, in one line."""
    if isinstance(error, cv2.error):
        return f"OpenCV: {error.err or error}"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
