"""Which videos each process sees in which step: pure functions of the seed and the epoch, so a run can be repeated."""

import contextlib
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from ops.data.dataset import VideoDataset, collate_clips, worker_init
from ops.utils.errors import UserError


class TrainingBatches(Sampler[list[int]]):
    """Shuffled batches of one process: its equal share of each global batch; an incomplete last batch is left out.

    The global batches depend on the seed and the epoch only, not on the number of processes.
    """

    def __init__(self, num_videos: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(f"--batch_size {batch_size} cannot be shared equally by {world_size} processes")
        if num_videos < batch_size:
            raise UserError(f"--batch_size {batch_size} is larger than the training split ({num_videos} videos)")
        self.num_videos, self.batch_size, self.seed = num_videos, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first_step = 0, 0

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch whose order the next iteration gives, and how many of its steps are already done."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self.num_videos // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_videos)
        share = self.batch_size // self.world_size
        for step in range(self.first_step, len(self)):
            start = step * self.batch_size + self.rank * share
            yield order[start : start + share].tolist()


class EvaluationBatches(BatchSampler):
    """Every `world_size`-th video in order, in batches; each video stands in exactly one process's batches."""

    def __init__(self, num_videos: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_videos, world_size)
        super().__init__(self.indices, batch_size, drop_last=False)
        self.common_steps = -(-(num_videos // world_size) // self.batch_size)  # how many batches every process has


def start_method(workers: int) -> str | None:
    """How `DataLoader` starts its workers (its `multiprocessing_context`).

    On Linux they are forked, as they were by default before Python 3.14: they start at once, with what is loaded, and
    there is no server process between them and this one that a signal to the whole group would end.
    """
    return "fork" if workers and sys.platform == "linux" else None


@contextlib.contextmanager
def open_loader(
    dataset: VideoDataset, batches: Sampler[list[int]], workers: int, device: torch.device
) -> Iterator[DataLoader]:
    """Batches of (frames uint8 [B, T, 3, H, W], labels int64 [B, 3], indices int64 [B]). Workers end with the block.

    Left to Python at its exit they might not: it sends them SIGTERM and waits for ever, and where a signal to all has
    just reached them, too, they take that for the same one (see `worker_init`).
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate_clips,
        worker_init_fn=worker_init,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        multiprocessing_context=start_method(workers),
    )
    try:
        yield loader
    finally:
        if loader._iterator is not None:  # which it keeps from one pass to the next
            loader._iterator._shutdown_workers()
