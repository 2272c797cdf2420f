"""Videos -> predictions, batch by batch, with early exit where there are thresholds.

predictor = Predictor(model, thresholds, "confidence")
for outcome in predictor(ops.video_paths.find(["clips"])):
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
from ops.dataset import BACKENDS
from ops.dynamic import EarlyExitInference, ExitResult
from ops.errors import UserError
from ops.flops import exit_gflops
from ops.frame_folders import FrameSettings
from ops.inference_network import float32_convolutions, prepare_for_inference
from ops.inspection import Inspection, Trace
from ops.metrics import ArrayLike
from ops.video_batch import READING_ERRORS, BrokenVideos, SegmentReader, VideoBatch, reason
from ops.video_frames import FrameFolder, VideoFile
from ops.video_paths import FoundVideo


@dataclass(frozen=True)
class Prediction:
    """The prediction for one video."""

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
# Draws what was seen in a video: its path, its frames, what the network saw -> files by kind, and what failed or "".
Illustrate = Callable[[Path, SegmentReader, Inspection], tuple[dict[str, Path], str]]


class Predictor:
    """Predicts the classes of videos with one network.

    Args:
        model: in evaluation mode, on its device.
        thresholds: [F + 1], as `EarlyExitInference` takes them; without them each video gets all F patches.
        criterion: of the thresholds.
        topk: classes of each video in its prediction, at most all.
        batch_size: videos at a time.
        settings: height and frame rate of the frames, as for `ops.video_jpg`.
        decode: as for `VideoDataset`.
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
        settings: FrameSettings = FrameSettings(),
        decode: str = BACKENDS[0],
        illustrate: Illustrate | None = None,
    ) -> None:
        self.gflops = exit_gflops(model)
        self.model = prepare_for_inference(model)
        if thresholds is None:
            thresholds = np.full(len(self.gflops), np.inf, dtype=np.float32)
        self.inference = EarlyExitInference(self.model, thresholds, criterion)
        self.topk, self.batch_size = min(topk, model.num_classes), batch_size
        self.settings, self.decode, self.illustrate = settings, decode, illustrate

    def __call__(self, videos: Sequence[FoundVideo]) -> Iterator[Outcome]:
        """One outcome for each video, as soon as its batch is done; where pictures failed, one more. Raises UserError
        where the network's logits are not finite or memory is short."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for first in range(0, len(videos), self.batch_size):
                with float32_convolutions():  # which the thresholds were found in
                    outcomes = self._batch(videos[first : first + self.batch_size], threads)
                yield from outcomes

    def _batch(self, found: Sequence[FoundVideo], threads: Executor) -> list[Outcome]:
        """The outcomes of one batch, in the order of the videos."""
        started = time.perf_counter()
        readers = list(threads.map(self._open, found))
        try:
            rows, result, inspections = self._run(found, readers, threads)
            seconds = (time.perf_counter() - started) / len(found)
            outcomes: list[list[Outcome]] = [[reader] if isinstance(reader, Failure) else [] for reader in readers]
            for place, row in enumerate(rows):
                path, files, problem = found[row].path, {}, ""
                if self.illustrate:
                    files, problem = self.illustrate(path, readers[row], inspections[place])
                probabilities, labels = result.logits[place].softmax(dim=0).topk(self.topk)
                patches = int(result.patches[place])
                outcomes[row].append(
                    Prediction(
                        path=path,
                        labels=labels.tolist(),
                        probabilities=probabilities.tolist(),
                        patches=patches,
                        gflops=self.gflops[patches],
                        seconds=seconds,
                        replaced=readers[row].video.replaced,
                        files=files,
                    )
                )
                if problem:
                    outcomes[row].append(Failure(path, problem))
        except torch.OutOfMemoryError as error:
            raise UserError(f"out of GPU memory with --batch_size {self.batch_size}: lower it") from error
        finally:
            for reader in readers:
                if isinstance(reader, SegmentReader):
                    reader.video.close()
        return [outcome for of_video in outcomes for outcome in of_video]

    def _run(
        self, found: Sequence[FoundVideo], readers: list[SegmentReader | Failure], threads: Executor
    ) -> tuple[list[int], ExitResult | None, list[Inspection]]:
        """Run the videos that can be read: their rows, the result, and for pictures what the network saw.

        A damaged file is tried once more, decoded from end to end as extraction does; `readers` is kept up to date.
        """
        while rows := [row for row, reader in enumerate(readers) if isinstance(reader, SegmentReader)]:
            trace = Trace(self.model) if self.illustrate else None
            try:
                result = self.inference(VideoBatch([readers[row] for row in rows], threads), trace)
            except BrokenVideos as broken:
                for place, why in broken.reasons.items():
                    row = rows[place]
                    video = readers[row].video
                    video.close()
                    can_try = isinstance(video, VideoFile) and not video.all_decoded
                    readers[row] = self._open(found[row], True) if can_try else Failure(found[row].path, why)
            else:
                return rows, result, trace.inspections() if trace else []
        return [], None, []

    def _open(self, found: FoundVideo, decode_all: bool = False) -> SegmentReader | Failure:
        try:
            if found.template is not None:
                video = FrameFolder(found.path, found.template, self.decode)
            else:
                threads = 1 if self.batch_size > 1 else 0  # each video of a batch has a thread of its own
                video = VideoFile(found.path, self.settings.frame_rate, self.settings.height, threads, decode_all)
        except READING_ERRORS as error:
            return Failure(found.path, reason(error))
        return SegmentReader(video, self.model, self.decode)
