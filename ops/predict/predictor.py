"""Videos -> predictions, batch by batch, with early exit where there are thresholds.

predictor = Predictor(model, thresholds, "confidence")
for outcome in predictor(ops.predict.paths.find(["clips"])):
    ...                                             # a Prediction or a Failure, in the order of the videos
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.data.dataset import DECODERS
from ops.early_exit.inference import EarlyExitInference
from ops.flops import exit_gflops
from ops.inference import float32_convolutions
from ops.metrics import ArrayLike
from ops.predict.batches import READING_ERRORS, SegmentReader, VideoBatch, reason
from ops.predict.paths import FoundVideo
from ops.report.inspection import Inspection, InspectionTrace
from ops.utils.cores import available_cores
from ops.utils.errors import UserError
from ops.utils.faults import is_out_of_gpu_memory
from ops.video.frame_folders import FrameSettings
from ops.video.frames import FrameFolder, VideoFile


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
        model: in evaluation mode, on its device; fastest once `prepare_for_inference`.
        thresholds: [F + 1], as `EarlyExitInference` takes them; without them each video gets all F patches.
        criterion: of the thresholds.
        topk: classes of each video in its prediction, at most all.
        batch_size: videos at a time.
        settings: of the frames, as for `ops.video_jpg`.
        decode: as for `VideoDataset`.
        illustrate: draws what was seen.

    Several threads may use one predictor. Raises ValueError for arguments that make no sense.
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
        decode: str = DECODERS[0],
        illustrate: Illustrate | None = None,
    ) -> None:
        if batch_size < 1 or topk < 1:
            raise ValueError(f"batch_size {batch_size} and topk {topk} must be at least 1")
        self.gflops = exit_gflops(model)
        self.model = model
        if thresholds is None:
            thresholds = np.full(len(self.gflops), np.inf, dtype=np.float32)
        self.inference = EarlyExitInference(self.model, thresholds, criterion)
        self.topk, self.batch_size = min(topk, model.num_classes), batch_size
        self.settings, self.decode, self.illustrate = settings, decode, illustrate

    def __call__(self, videos: Sequence[FoundVideo]) -> Iterator[Outcome]:
        """One outcome for each video, as soon as its batch is done; where pictures failed, one more. Raises UserError
        where the network's logits are not finite or memory is short."""
        with ThreadPoolExecutor(available_cores()) as threads:
            for first in range(0, len(videos), self.batch_size):
                with float32_convolutions():  # which the thresholds were found in
                    outcomes = self._batch(videos[first : first + self.batch_size], threads)
                yield from outcomes

    def _batch(self, found: Sequence[FoundVideo], threads: Executor, decode_all: bool = False) -> list[Outcome]:
        """The outcomes of one batch, in the order of the videos. A damaged file is tried once more by itself, with
        decode_all: decoded from end to end, as extraction does."""
        started = time.perf_counter()
        decoder_threads = 1 if len(found) > 1 else 0  # each video of a batch has a thread of its own
        open_video = partial(self._open, decoder_threads=decoder_threads, decode_all=decode_all)
        readers = list(threads.map(open_video, found))
        batch = VideoBatch([reader for reader in readers if isinstance(reader, SegmentReader)], threads)
        trace = InspectionTrace(self.model) if self.illustrate else None
        outcomes: list[Outcome] = []
        try:
            result = self.inference(batch, trace) if len(batch) else None
            seconds = (time.perf_counter() - started) / len(found)
            inspections = trace.inspections() if trace and len(batch) else [None] * len(batch)
            places = iter(range(len(batch)))
            for video, reader in zip(found, readers, strict=True):
                if isinstance(reader, Failure):
                    outcomes.append(reader)
                    continue
                place = next(places)
                if place in batch.broken:
                    can_try = isinstance(reader.video, VideoFile) and not reader.video.all_decoded
                    failed = Failure(video.path, batch.broken[place])
                    outcomes += self._batch([video], threads, decode_all=True) if can_try else [failed]
                    continue
                prediction = self._prediction(video.path, result.logits[place], int(result.patches[place]), seconds)
                files, problem = self.illustrate(video.path, reader, inspections[place]) if trace else ({}, "")
                outcomes.append(replace(prediction, replaced=reader.video.replaced, files=files))
                if problem:
                    outcomes.append(Failure(video.path, problem))
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            raise UserError(f"out of GPU memory with --batch_size {self.batch_size}: lower it") from error
        return outcomes

    def _prediction(self, path: Path, logits: Tensor, patches: int, seconds: float) -> Prediction:
        """Of one video, from its logits [C]."""
        probabilities, labels = logits.softmax(dim=0).topk(self.topk)
        return Prediction(path, labels.tolist(), probabilities.tolist(), patches, self.gflops[patches], seconds)

    def _open(self, found: FoundVideo, decoder_threads: int, decode_all: bool) -> SegmentReader | Failure:
        try:
            if found.template is not None:
                video = FrameFolder(found.path, found.template, self.decode)
            else:
                settings = replace(self.settings, decoder_threads=decoder_threads)
                video = VideoFile(found.path, settings, decode_all)
        except READING_ERRORS as error:
            return Failure(found.path, reason(error))
        return SegmentReader(video, self.model, self.decode)
