"""How fast frame folders become clips, against the published pipeline, and how far the pixels are from it.

    python -m benchmarks.loading
    python -m benchmarks.loading --rounds 9 --quality 30

Makes videos of 640x360 frames: at JPEG quality 30, OpenCV's nearest to what ffmpeg writes by default (see
ops/video_jpg.py), and at 95. Reads them as the published code does (Pillow decodes each frame in full, crops and
resizes it, and the frames are stacked, turned into float32 and normalised in the worker) and as ours does (uint8 clips,
normalised later on the device), in turns: on one core, beside decoding alone in OpenCV, which is the floor, and through
a DataLoader with two workers, where the published clips are four times as large. Then reads a long list of videos, and
checks that the frames of many videos are there.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.extraction import HEIGHT, WIDTH, cluttered_scene
from benchmarks.measuring import Row, one_core, row_of, run, take_turns
from dataset_config import DatasetConfig, get_dataset
from ops.data import transforms
from ops.data.annotations import read_annotations
from ops.data.check import find_problems
from ops.data.dataset import VideoDataset, collate_clips, worker_init
from ops.data.images import read_array
from ops.utils.errors import run_entry

SEGMENTS, INPUT_SIZE = 48, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPTIONS = {
    "videos": 8, "rounds": 5, "pairs": 3, "quality": [30, 95], "listed": 1_000_000, "checked": 20_000,
}  # fmt: skip
MODES = {"training": True, "evaluation": False}
BATCH_SIZE = 4  # of the DataLoader


class PublishedPipeline(Dataset):
    """The published loading of the same videos with the same draws; items are (float32 [3 T, H, W], label, index)."""

    def __init__(self, data: VideoDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        paths, view_of, flip = draw(self.data, index)
        images = [Image.open(path).convert("RGB") for path in paths]
        images = [_square(image, view_of(*image.size), flip) for image in images]
        stacked = np.concatenate([np.array(image) for image in images], axis=2)
        clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
        for channel, plane in enumerate(clip):
            plane.sub_(MEAN[channel % 3]).div_(STD[channel % 3])
        return clip, int(self.data.annotations.labels[index, 0]), index


def draw(data: VideoDataset, index: int) -> tuple[list[str], transforms.ViewOf, bool]:
    """Frame files [T], crop and flip of an item, as `data` draws them."""
    _, numbers, view_of, flip = data._plan(index)
    folder = data.config.video_folder(data.video_name(index))
    return [os.path.join(folder, data.config.template.format(number)) for number in numbers], view_of, flip


def _square(image: Image.Image, view: transforms.View, flip: bool) -> Image.Image:
    if view.box != (0, 0, *image.size):
        image = image.crop(view.box)
    image = image.resize(view.size, Image.Resampling.BILINEAR)
    if view.size != (INPUT_SIZE, INPUT_SIZE):
        image = image.crop((*view.corner, view.corner[0] + INPUT_SIZE, view.corner[1] + INPUT_SIZE))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def decode_only(data: VideoDataset, index: int) -> None:
    """Decode the frames of an item."""
    for path in draw(data, index)[0]:
        read_array(path)


def pixel_difference(data: VideoDataset, published: PublishedPipeline, index: int) -> tuple[int, float]:
    """(largest difference in grey levels, share of the values that differ) of an item."""
    clip = published[index][0].view(-1, 3, INPUT_SIZE, INPUT_SIZE)
    levels = 255 * (clip * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1))
    difference = (levels.round().int() - data[index][0].int()).abs()
    return int(difference.max()), float((difference > 0).float().mean())


def write_videos(folder: Path, videos: int, quality: int) -> DatasetConfig:
    """A dataset of videos in which the camera glides over a cluttered scene, one frame per segment."""
    for video in range(videos):
        scene = cluttered_scene(HEIGHT + 200, WIDTH + 200, seed=video)
        frames = folder / "frames" / f"video{video}"
        frames.mkdir(parents=True)
        for number in range(SEGMENTS):
            top, left = 2 * number, 4 * number
            picture = scene[top : top + HEIGHT, left : left + WIDTH]
            cv2.imwrite(str(frames / f"image_{number + 1:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return write_lists(folder, (f"video{video},{SEGMENTS},0" for video in range(videos)))


def write_lists(folder: Path, rows: Iterable[str]) -> DatasetConfig:
    """The class file, and both splits with `rows`."""
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    (folder / "classInd.txt").write_text("one\nother\n")
    text = "\n".join(rows)
    for split in ("train", "val"):
        (folder / f"{split}_split.txt").write_text(text)
    return get_dataset("bench", folder)


def seconds_per_pair(dataset: Dataset, pairs: int, collate: Callable | None) -> float:
    """Of batches, one by each of a DataLoader's two workers, after a first pair that does not count."""
    videos = [index % len(dataset) for index in range(2 * (pairs + 1) * BATCH_SIZE)]
    loader = DataLoader(
        dataset, BATCH_SIZE, sampler=videos, num_workers=2, collate_fn=collate, worker_init_fn=worker_init
    )
    arrived = [time.perf_counter() for _ in loader]
    return (arrived[-1] - arrived[1]) / pairs


def clip_rows(folder: Path, arguments: argparse.Namespace, quality: int, mode: str) -> Iterator[Row]:
    """Training or evaluation at one quality, in one process and through a DataLoader."""
    data = VideoDataset(get_dataset("bench", folder), "train", SEGMENTS, INPUT_SIZE, MODES[mode])
    published, videos = PublishedPipeline(data), range(arguments.videos)
    differences = [pixel_difference(data, published, index) for index in videos]
    largest, differing = max(most for most, _ in differences), statistics.mean(share for _, share in differences)
    readers = {"yardstick": published.__getitem__, "ours": data.__getitem__, "decoding": partial(decode_only, data)}
    with one_core():
        ways = {name: lambda read=read: [read(index) for index in videos] for name, read in readers.items()}
        seconds, _ = take_turns(ways, arguments.rounds)
    floor = statistics.median(seconds["ours"]) / statistics.median(seconds["decoding"])
    remark = f"{largest} grey level(s) in {100 * differing:.2f} % of the values; {floor:.2f} times as long as decoding"
    what = f"loading, {mode}, quality {quality}"
    yield row_of(f"{what}, videos/s", seconds, remark, arguments.videos)
    loaded = {"yardstick": [], "ours": []}
    for _ in range(arguments.rounds):
        loaded["yardstick"].append(seconds_per_pair(published, arguments.pairs, None))
        loaded["ours"].append(seconds_per_pair(data, arguments.pairs, collate_clips))
    yield row_of(f"{what}, two workers, videos/s", loaded, items=2 * BATCH_SIZE)


def list_rows(folder: Path, listed: int, checked: int) -> Iterator[Row]:
    """How long a long split file takes to read, and the check of a dataset before a run."""
    config = write_lists(
        folder / "long", (f"some_class/v_{row:011d},{100 + row % 200},{row % 2}" for row in range(listed))
    )
    seconds, _ = take_turns({"ours": lambda: read_annotations(config.train_split, ",", 2)}, 1, warm_up=False)
    yield row_of(f"reading a list of {listed} videos, s", seconds)

    config = write_lists(folder / "checked", (f"class{row % 2}/v_{row:05d},100,{row % 2}" for row in range(checked)))
    annotations = read_annotations(config.train_split, ",", 2)
    for row in range(checked):
        video = config.frames_root / annotations.name(row)
        video.mkdir(parents=True)
        for number in (1, 100):
            (video / config.template.format(number)).write_bytes(b"a frame")
    seconds, problems = take_turns({"ours": lambda: find_problems(config, annotations)}, 1)
    yield row_of(f"the check of {checked} videos, s", seconds, f"{len(problems['ours'])} problems")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Clips of each quality, then lists."""
    with tempfile.TemporaryDirectory() as work:
        for quality in arguments.quality:
            folder = Path(work) / f"quality{quality}"
            write_videos(folder, arguments.videos, quality)
            for mode in MODES:
                yield from clip_rows(folder, arguments, quality, mode)
        yield from list_rows(Path(work), arguments.listed, arguments.checked)


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
