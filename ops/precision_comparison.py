"""What a lower precision changes and how much time it saves, measured on some of the videos of an evaluation."""

import time
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from models.uni_adafocus import UniAdaFocus
from ops.inference import prepare_for_inference
from ops.metrics import accuracy, mean_average_precision
from ops.utils import distributed

Batch = tuple[Tensor, Tensor, Tensor]
AT_LEAST = 128  # videos of each process
COMPARE_EVERY = 20  # batches, after these: some 15 % of the evaluation's time


class PrecisionComparison:
    """Runs some batches of an evaluation in its precision and in float32. In float32 there is nothing to compare.

    model, precision, compiled: as for `prepare_for_inference`; the model need be in evaluation mode only when batches
    come. device: of the model.
    """

    def __init__(self, model: UniAdaFocus, precision: str, compiled: bool, device: torch.device) -> None:
        self.model, self.precision, self.compiled, self.device = model, precision, compiled, device
        self.ways: list[UniAdaFocus] = []  # in the lower precision, and in float32
        self.seconds = [0.0, 0.0]
        self.logits: tuple[list[Tensor], list[Tensor]] = ([], [])  # [b, C] of each batch
        self.indices: list[Tensor] = []

    def watch(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        """The same batches, of which some are used in passing."""
        return batches if self.precision == "float32" else self._watch(batches)

    def _watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for step, batch in enumerate(batches):
            if step % COMPARE_EVERY == 0 or sum(map(len, self.indices)) < AT_LEAST:
                self._compare(batch[0].to(self.device), batch[2])
            yield batch

    @torch.inference_mode()
    def _compare(self, frames: Tensor, indices: Tensor) -> None:
        if not self.ways:
            self.ways = [
                prepare_for_inference(self.model, precision, self.compiled) for precision in (self.precision, "float32")
            ]
            for way in self.ways:
                way(frames)  # the first call of anything is slow
        for number, way in enumerate(self.ways):
            started = self._now()
            logits = way(frames).logits
            self.seconds[number] += self._now() - started
            self.logits[number].append(logits.cpu())
        self.indices.append(indices)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def summary(self, labels: Tensor, metric: str) -> str | None:
        """One line, or None in float32; every process calls this. labels: int64 [N, 3] of the whole split.

        metric: "map" or "accuracy". The line is the main process's, and the others get an empty one.
        """
        if self.precision == "float32":
            return None
        classes = self.model.num_classes
        indices = torch.cat([torch.empty(0, dtype=torch.int64), *self.indices])
        counts = distributed.gather_objects((len(indices), *self.seconds))
        videos = sum(count for count, *_ in counts)
        places = torch.arange(len(indices)) + sum(count for count, *_ in counts[: distributed.rank()])
        mine = [torch.cat([torch.empty(0, classes), *parts]) for parts in self.logits]
        lower, full = (distributed.gather_rows(rows, places, videos) for rows in mine)
        rows = distributed.gather_rows(indices, places, videos)
        if lower is None:
            return ""
        speeds = [sum(count / taken[way] for count, *taken in counts if count) for way in (0, 1)]
        before, after = (_figure(logits, labels[rows], metric) for logits in (full, lower))
        same = 100 * (lower.argmax(1) == full.argmax(1)).double().mean()
        apart = (lower.softmax(1) - full.softmax(1)).abs().max()
        return (
            f"{self.precision}: {speeds[0]:.2f} videos/s, {speeds[0] / speeds[1]:.2f} times float32 (networks alone); "
            f"{'mAP' if metric == 'map' else 'top-1 accuracy'} {after:.3f}, in float32 {before:.3f} "
            f"({after - before:+.3f}), on {videos} of {len(labels)} videos: {same:.1f} % with the same first class, "
            f"probabilities at most {apart:.3f} apart"
        )


def _figure(logits: Tensor, labels: Tensor, metric: str) -> float:
    if metric == "accuracy":
        return accuracy(logits, labels[:, 0], topk=(1,))[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes without a video: these are but some of the videos
        return mean_average_precision(logits, labels)[0]
