"""Batches of videos whose frames are fetched only when a network looks at them."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Protocol

import torch
from torch import Tensor

from ops.data.dataset import VideoDataset

FRAMES_PER_TASK = 4  # decoded by one thread in one go


class FrameSource(Protocol):
    """A batch of videos, numbered from 0."""

    def __len__(self) -> int:
        """How many videos."""

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """Frames uint8 [n * f, 3, H, W] of the videos int64 [n] at the segments int64 [n, f], all on the CPU."""


class ClipFrames:
    """Whole clips uint8 [B, T, 3, H, W] that are in memory already, on any device."""

    def __init__(self, clips: Tensor) -> None:
        self._clips = clips.permute(0, 1, 3, 4, 2)

    def __len__(self) -> int:
        return len(self._clips)

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """See `FrameSource`."""
        videos, segments = videos.to(self._clips.device), segments.to(self._clips.device)
        return self._clips[videos.unsqueeze(1), segments].flatten(0, 1).permute(0, 3, 1, 2)


class FolderFrames:
    """Videos of a dataset, decoded on demand by threads; no frame of the first fetch is decoded twice.

    Frames for the focus are distinct, but may have been glanced at. `seconds` adds up how long fetching took.
    """

    def __init__(self, dataset: VideoDataset, indices: Sequence[int], threads: Executor) -> None:
        self._dataset, self._indices, self._threads = dataset, list(indices), threads
        self._kept: dict[tuple[int, int], Tensor] | None = None
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self._indices)

    def fetch(self, videos: Tensor, segments: Tensor) -> Tensor:
        """See `FrameSource`. Raises UserError for a video without a readable frame."""
        started = time.perf_counter()
        kept = self._kept or {}
        wanted = [
            (video, segment) for video, row in zip(videos.tolist(), segments.tolist(), strict=True) for segment in row
        ]
        frames = kept | self._decode([key for key in wanted if key not in kept])
        if self._kept is None:
            self._kept = frames
        size = self._dataset.input_size
        result = torch.empty(len(wanted), size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
        torch.stack([frames[key] for key in wanted], out=result)
        self.seconds += time.perf_counter() - started
        return result

    def _decode(self, keys: list[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
        by_video: dict[int, list[int]] = {}
        for video, segment in keys:
            by_video.setdefault(video, []).append(segment)
        tasks = [
            (video, segments[start : start + FRAMES_PER_TASK])
            for video, segments in by_video.items()
            for start in range(0, len(segments), FRAMES_PER_TASK)
        ]
        clips = self._threads.map(lambda task: self._dataset.load_segments(self._indices[task[0]], task[1]), tasks)
        return {
            (video, segment): frame
            for (video, segments), clip in zip(tasks, clips, strict=True)
            for segment, frame in zip(segments, clip, strict=True)
        }
