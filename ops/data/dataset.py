"""Frame folders -> uint8 clips with labels: a map-style dataset and what a DataLoader needs around it.

    data = VideoDataset(config, split="train", num_segments=48, input_size=224, training=True, seed=1)
    loader = DataLoader(data, 32, num_workers=8, collate_fn=collate_clips, worker_init_fn=worker_init)

An item's randomness comes from (seed, epoch, index) alone, so it does not depend on the workers or the order. A frame
that cannot be decoded is replaced by the nearest good one of the same video, and counted; a video without one good
frame is an error. The recipe is in `ops/data/transforms.py`.
"""

import os
import signal
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import partial
from heapq import merge
from types import FrameType

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from dataset_config import DatasetConfig
from ops.data import transforms
from ops.data.annotations import read_annotations
from ops.data.images import BadFrame, read_array, read_image
from ops.utils.errors import UserError
from ops.utils.signals import SAME_SECONDS, handled_by

SPLITS = ("train", "val")
DECODERS = ("fast", "pillow")


class VideoDataset(Dataset):
    """The videos of one split; `data[i]` is (frames, labels, index).

    frames: uint8 RGB [T, 3, input_size, input_size], channels last in memory. labels: int64 [3], padded with -1; in
    training a video's labels take turns in coming first, uniformly. index: `i`, the row among `annotations`.

    Args:
        config: of the dataset.
        split: which videos, "train" or "val".
        num_segments: T, frames of a clip.
        input_size: side of its frames in pixels.
        training: whether frames and crops are random.
        seed: of what is random.
        backend: "fast", or "pillow", its exact and slow reference.

    Raises UserError for an unknown split or backend, sizes or a seed that are too small, and a split file that cannot
    be used.
    """

    def __init__(
        self,
        config: DatasetConfig,
        split: str,
        num_segments: int,
        input_size: int,
        training: bool,
        seed: int = 0,
        backend: str = "fast",
    ) -> None:
        if split not in SPLITS:
            raise UserError(f"split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
        if backend not in DECODERS:
            raise UserError(f"backend {backend!r} is unknown: choose one of {', '.join(DECODERS)}")
        if num_segments < 1 or input_size < 1 or seed < 0:
            raise UserError(f"num_segments {num_segments}, input_size {input_size} or seed {seed} is too small")
        self.config = config
        self.split = split
        self.num_segments = num_segments
        self.input_size = input_size
        self.training = training
        self.seed = seed
        self.backend = backend
        split_file = config.train_split if split == "train" else config.val_split
        self.annotations = read_annotations(split_file, config.separator, config.num_classes)
        self.left_out = 0  # videos that `leave_out` took away
        # Both are in shared memory, so that the main process and workers that outlive an epoch see each other's writes.
        # [N], since `reset_replaced`: one for each segment of a clip that shows another frame than it should.
        self.replaced_frames = torch.zeros(len(self.annotations), dtype=torch.int32).share_memory_()
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        index = int(index)
        generator, numbers, view_of, flip = self._plan(index)
        labels = self.annotations.labels[index]
        if self.training:
            labels = transforms.training_labels(labels, generator=generator)
        return self._read(index, numbers, view_of, flip), torch.tensor(labels), index

    def load_segments(self, index: int, segments: Sequence[int] | np.ndarray) -> Tensor:
        """Decode only some segments (0..T-1, in any order) of video `index`: uint8 [len(segments), 3, H, W].

        The pixels are those of `data[index][0][segments]`, bit for bit, in training too within one epoch.
        """
        _, numbers, view_of, flip = self._plan(index)
        return self._read(index, numbers[np.asarray(segments, dtype=np.int64)], view_of, flip)

    def leave_out(self, rows: Sequence[int]) -> None:
        """Take the videos `rows` out of the split. The remaining rows are renumbered, so call this before row numbers
        are used."""
        if len(rows):
            self.annotations = self.annotations.without(rows)
            self.left_out += len(rows)
            self.replaced_frames = torch.zeros(len(self.annotations), dtype=torch.int32).share_memory_()

    @property
    def labels(self) -> Tensor:
        """All videos' labels: int64 [N, 3], padded with -1, in the order of the split file."""
        return torch.from_numpy(self.annotations.labels)

    def video_name(self, index: int) -> str:
        """The name of video `index`, as in the split file."""
        return self.annotations.name(int(index))

    def video_names(self) -> list[str]:
        """All names, in the order of the split file."""
        return self.annotations.names()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) that items draw their randomness from; reaches running workers."""
        self._epoch.fill_(epoch)

    def reset_replaced(self) -> None:
        """Count replaced frames from zero again."""
        self.replaced_frames.zero_()

    def _plan(self, index: int) -> tuple[np.random.Generator, np.ndarray, transforms.ViewOf, bool]:
        """Draw frame numbers [T], crop and flip of a video; in this order, before any frame is read."""
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        segments = {"num_frames": int(self.annotations.frames[index]), "num_segments": self.num_segments}
        if not self.training:
            view_of = partial(transforms.evaluation_view, input_size=self.input_size)
            return generator, transforms.evaluation_frames(**segments), view_of, False
        numbers = transforms.training_frames(**segments, generator=generator)
        choice = transforms.training_crop(generator=generator)
        view_of = partial(transforms.training_view, input_size=self.input_size, choice=choice)
        return generator, numbers, view_of, choice.flip

    def _read(self, index: int, numbers: np.ndarray, view_of: transforms.ViewOf, flip: bool) -> Tensor:
        video, listed_at = self.video_name(index), f"{self.annotations.path}:{self.annotations.line_numbers[index]}"
        folder, num_frames = self.config.video_folder(video), int(self.annotations.frames[index])
        advice = f"extract it again with ops/video_jpg.py, or take it out of {listed_at}"
        reader = FrameReader(video, folder, self.config.template, num_frames, advice, self.backend)
        frames = map(reader.read, numbers.tolist())
        if self.backend == "pillow":
            clip = transforms.pillow_clip(frames, input_size=self.input_size, view_of=view_of, flip=flip)
        else:
            clip = transforms.fast_clip(
                frames, num_frames=len(numbers), input_size=self.input_size, view_of=view_of, flip=flip
            )
        if reader.replaced:
            self.replaced_frames[index] += reader.replaced
        return clip


class FrameReader:
    """Decodes frames of one video; for a bad one, the nearest good one (the earlier of two equally near).

    Args:
        video: its name, for messages.
        folder, template, num_frames: where the frames are, how they are named, and how many; they count from 1.
        advice: what to do where there is none.
        backend: as for `VideoDataset`.
    """

    def __init__(
        self, video: str, folder: str, template: str, num_frames: int, advice: str, backend: str = "fast"
    ) -> None:
        self.video, self.folder, self.template, self.num_frames = video, folder, template, num_frames
        self.advice = advice
        self.decode = read_image if backend == "pillow" else read_array
        self.replaced = 0
        self._bad: set[int] = set()
        self._candidates: list[int] | None = None  # numbers on disk, ascending; listed when a frame is bad
        self._last: tuple[int, int, np.ndarray | Image.Image] | None = None  # asked for, found, frame

    def read(self, number: int) -> np.ndarray | Image.Image:
        """Frame `number`, or what replaces it; UserError when the video has no good frame at all."""
        # A video shorter than its segments shows each frame several times in a row.
        if self._last is None or self._last[0] != number:
            self._last = (number, *self._nearest_good(number))
        _, found, frame = self._last
        self.replaced += found != number
        return frame

    def _nearest_good(self, number: int) -> tuple[int, np.ndarray | Image.Image]:
        for candidate in self._outwards_from(number):
            try:
                frame = self.decode(os.path.join(self.folder, self.template.format(candidate)))
            except BadFrame:
                self._bad.add(candidate)
            else:
                return candidate, frame
        first, last = self.template.format(1), self.template.format(self.num_frames)
        raise UserError(f"video {self.video!r} has no readable frame {first} .. {last} in {self.folder}; {self.advice}")

    def _outwards_from(self, number: int) -> Iterator[int]:
        if number not in self._bad:
            yield number
        if self._candidates is None:
            self._candidates = self._numbers_on_disk()
        after = bisect_left(self._candidates, number)
        earlier = reversed(self._candidates[:after])
        later = self._candidates[after:]
        for candidate in merge(earlier, later, key=lambda candidate: abs(candidate - number)):
            if candidate not in self._bad:
                yield candidate

    def _numbers_on_disk(self) -> list[int]:
        try:
            listing = set(os.listdir(self.folder))
        except OSError as error:
            raise UserError(
                f"video {self.video!r} has no folder of frames {self.folder} ({error.strerror}); {self.advice}"
            ) from None
        return [number for number in range(1, self.num_frames + 1) if self.template.format(number) in listing]


def collate_clips(batch: Sequence[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Items -> frames uint8 [B, T, 3, H, W], labels int64 [B, 3], index int64 [B].

    The frames stay channels last: a view of a contiguous [B, T, H, W, 3], in shared memory when in a worker.
    """
    frames, labels, index = default_collate([(clip.permute(0, 2, 3, 1), *rest) for clip, *rest in batch])
    return frames.permute(0, 1, 4, 2, 3), labels, index


def worker_init(worker_id: int) -> None:
    """`worker_init_fn` of a DataLoader: one thread per worker, and a stop is left to the main process.

    Launchers, schedulers and terminals send their signals to all processes of a run. The main process finishes its step
    and saves, for which it needs its workers; a later one, as the DataLoader sends to a worker that does not end, ends
    the worker.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    first: list[float] = []

    def end_later(number: int, frame: FrameType | None) -> None:
        first.append(time.monotonic())
        if first[-1] - first[0] > SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    handled_by(end_later)
