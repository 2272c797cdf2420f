"""Videos -> what the network says of them, batch by batch, with early exit where there are thresholds.

predictor = Predictor(model, thresholds, "confidence")
for outcome in predictor(ops.predict.paths.find(["clips"])):
    ...                                             # a Prediction or a Failure, in the order of the videos
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from models.uni_adafocus import UniAdaFocus
from ops.data.dataset import BACKENDS
from ops.early_exit.inference import Answer, EarlyExitInference
from ops.flops import exit_gflops
from ops.inference import prepare_for_inference
from ops.metrics import ArrayLike
from ops.predict.batches import READING_ERRORS, BrokenVideos, VideoBatch, reason
from ops.predict.paths import FoundVideo
from ops.utils.errors import UserError
from ops.utils.float32 import float32_convolutions
from ops.video.frame_folders import DEFAULT_HEIGHT, FrameSettings
from ops.video.frames import FrameFolder, Video, VideoFile


@dataclass(frozen=True)
class Prediction:
    """What one video got."""

    path: Path
    labels: list[int]  # the likeliest classes, the likeliest first
    probabilities: list[float]  # of these, 0..1; those of all classes sum to 1
    patches: int  # looked at before the video left: 0 after the glance .. F
    gflops: float
    seconds: float  # reading included; of a batch of several videos, an equal share
    replaced: int = 0  # frames that could not be read and were replaced by the nearest good one
    files: dict[str, Path] = field(default_factory=dict)  # written about it, by kind


@dataclass(frozen=True)
class Failure:
    """A video that could not be read, and why; or a file about it that could not be made."""

    path: Path
    reason: str


Outcome = Prediction | Failure
# Draws what was seen: model, batch, paths of its videos, answer -> the files of each video by kind, and what failed.
Illustrate = Callable[[UniAdaFocus, VideoBatch, Sequence[Path], Answer], list[tuple[dict[str, Path], str]]]


class Predictor:
    """A network that videos are given to.

    model: in evaluation mode, on its device. thresholds: [F + 1] with their criterion, as `EarlyExitInference` takes
    them; without them each video gets all F patches. topk: classes to tell of each video, at most all. batch_size:
    videos at a time. frame_rate, height: of the frames, as for `ops.video_jpg`. decode: as for `VideoDataset`.
    illustrate: draws what was seen.
    """

    def __init__(
        self,
        model: UniAdaFocus,
        thresholds: ArrayLike | None = None,
        criterion: str = "confidence",
        *,
        topk: int = 5,
        batch_size: int = 8,
        frame_rate: float | None = None,
        height: int = DEFAULT_HEIGHT,
        decode: str = BACKENDS[0],
        illustrate: Illustrate | None = None,
    ) -> None:
        self.gflops = exit_gflops(model)
        self.model = prepare_for_inference(model)
        if thresholds is None:
            thresholds = np.full(len(self.gflops), np.inf, dtype=np.float32)
        self.inference = EarlyExitInference(self.model, thresholds, criterion)
        self.topk, self.batch_size = min(topk, model.num_classes), batch_size
        self.frame_rate, self.height, self.decode, self.illustrate = frame_rate, height, decode, illustrate

    def __call__(self, videos: Sequence[FoundVideo]) -> Iterator[Outcome]:
        """One outcome for each video, as soon as its batch is done; where pictures failed, one more. Raises UserError
        where the network's logits are not finite or memory is short."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for first in range(0, len(videos), self.batch_size):
                with float32_convolutions():  # which the thresholds were found in
                    outcomes = self._batch(videos[first : first + self.batch_size], threads)
                yield from outcomes

    def _batch(self, found: Sequence[FoundVideo], threads: Executor) -> list[Outcome]:
        started = time.perf_counter()
        opened = dict(enumerate(threads.map(self._open, found)))
        outcomes: dict[int, list[Outcome]] = {}
        try:
            rows, batch, answer = self._answer(found, opened, threads)
            seconds = (time.perf_counter() - started) / len(found)
            for row, why in opened.items():
                outcomes[row] = [Failure(found[row].path, why)] if isinstance(why, str) else []
            paths, drawn = [found[row].path for row in rows], [({}, "")] * len(rows)
            if self.illustrate and answer is not None:
                drawn = self.illustrate(self.model, batch, paths, answer)
            for place, (files, problem) in enumerate(drawn):
                prediction = self._prediction(batch, answer, place, paths[place], seconds, files)
                outcomes[rows[place]] = [prediction, *([Failure(paths[place], problem)] if problem else [])]
        except torch.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with --batch_size {self.batch_size}: lower it") from error
        finally:
            for video in opened.values():
                if not isinstance(video, str):
                    video.close()
        return [outcome for row in sorted(outcomes) for outcome in outcomes[row]]

    def _answer(
        self, found: Sequence[FoundVideo], opened: dict[int, Video | str], threads: Executor
    ) -> tuple[list[int], VideoBatch, Answer | None]:
        """Run those of the videos that can be read: which they are, as a batch, and its answer, None without any.

        opened: each video, or why it cannot be read; kept up to date.
        """
        rows = [row for row, video in opened.items() if not isinstance(video, str)]
        batch = VideoBatch([opened[row] for row in rows], self.model, threads, self.decode)
        while rows:
            try:
                return rows, batch, self.inference(batch)
            except BrokenVideos as broken:
                changes = {}
                for place, why in broken.reasons.items():
                    row = rows[place]
                    opened[row] = self._second_try(found[row], opened[row], why)
                    changes[place] = None if isinstance(opened[row], str) else opened[row]
                batch = batch.with_changes(changes)
                rows = [row for row in rows if not isinstance(opened[row], str)]
        return rows, batch, None

    def _open(self, found: FoundVideo, decode_all: bool = False) -> Video | str:
        """The video, or why it cannot be read."""
        try:
            if found.template is not None:
                return FrameFolder(found.path, found.template, self.decode)
            threads = 1 if self.batch_size > 1 else 0  # each video of a batch has a thread of its own
            settings = FrameSettings(height=self.height, frame_rate=self.frame_rate, decoder_threads=threads)
            return VideoFile(found.path, settings, decode_all)
        except READING_ERRORS as error:
            return reason(error)

    def _second_try(self, found: FoundVideo, video: Video, why: str) -> Video | str:
        """A damaged file anew, decoded from end to end as extraction does; or why that does not help."""
        video.close()
        if isinstance(video, VideoFile) and not video.all_decoded:
            return self._open(found, decode_all=True)
        return why

    def _prediction(
        self, batch: VideoBatch, answer: Answer, place: int, path: Path, seconds: float, files: dict[str, Path]
    ) -> Prediction:
        probabilities, labels = answer.logits[place].softmax(dim=0).topk(self.topk)
        patches, replaced = int(answer.patches[place]), batch.videos[place].replaced
        return Prediction(
            path, labels.tolist(), probabilities.tolist(), patches, self.gflops[patches], seconds, replaced, files
        )
