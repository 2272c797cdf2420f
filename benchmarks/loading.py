"""How fast frame folders become clips, against the published pipeline, and how far the pixels are from it.

    python benchmarks/loading.py
    python benchmarks/loading.py --rounds 9 --quality 30 --tables clips
    python benchmarks/loading.py --tables lists          # split files, and the check of the data

Makes videos of 640x360 frames: at JPEG quality 30, OpenCV's nearest to what ffmpeg writes by default (see
ops/video_jpg.py), and at 95. Reads them, in turns on one core, in three ways:

    published    as the published code does: Pillow decodes each frame in full, crops and resizes it, and the frames
                 are stacked, turned into float32 and normalised in the worker
    ours         ops/dataset.py: uint8 clips, normalised later on the device
    decode only  the frames in OpenCV and nothing else: the floor

Prints videos per second (medians over the rounds), the ratio to `published` (median of the ratios round by round), the
milliseconds that each stage takes, the difference in pixels, and the ratio through a DataLoader with two workers, where
the published clips are four times as large.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.extraction import HEIGHT, WIDTH, cluttered_scene
from benchmarks.rows import Row
from dataset_config import DatasetConfig, get_dataset
from ops import transforms
from ops.annotations import read_annotations
from ops.data_check import find_problems
from ops.dataset import VideoDataset, collate_clips, worker_init
from ops.errors import UserError, run_entry
from ops.images import read_array

SEGMENTS, INPUT_SIZE = 48, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TABLES = ("clips", "lists")
MODES = {"training": True, "evaluation": False}
BATCH_SIZE = 4  # of the DataLoader


class PublishedPipeline(Dataset):
    """The published loading of the same videos with the same draws; items are (float32 [3 T, H, W], label, index)."""

    def __init__(self, data: VideoDataset) -> None:
        self.data = data
        self.seconds: defaultdict[str, float] = defaultdict(float)  # of each stage

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        paths, view_of, flip = draw(self.data, index)
        images = self._timed("decode", lambda: [Image.open(path).convert("RGB") for path in paths])
        images = self._timed("crop, resize", lambda: [_square(image, view_of(*image.size), flip) for image in images])
        stacked = self._timed("stack", lambda: np.concatenate([np.array(image) for image in images], axis=2))
        clip = self._timed(
            "to float32", lambda: torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
        )
        self._timed("normalise", lambda: _normalise(clip))
        return clip, int(self.data.annotations.labels[index, 0]), index

    def _timed(self, stage: str, work: Callable):
        started = time.perf_counter()
        result = work()
        self.seconds[stage] += time.perf_counter() - started
        return result


def draw(data: VideoDataset, index: int) -> tuple[list[str], transforms.ViewOf, bool]:
    """Frame files [T], crop and flip of an item in epoch 0, as `VideoDataset` draws them."""
    segments = {"num_frames": int(data.annotations.frames[index]), "num_segments": data.num_segments}
    if data.training:
        generator = np.random.default_rng((data.seed, 0, index))
        numbers = transforms.training_frames(**segments, generator=generator)
        choice = transforms.training_crop(generator=generator)
        view_of, flip = partial(transforms.training_view, input_size=data.input_size, choice=choice), choice.flip
    else:
        numbers = transforms.evaluation_frames(**segments)
        view_of, flip = partial(transforms.evaluation_view, input_size=data.input_size), False
    folder = os.path.join(data.config.frames_root, data.video_name(index))
    return [os.path.join(folder, data.config.template.format(number)) for number in numbers], view_of, flip


def _square(image: Image.Image, view: transforms.View, flip: bool) -> Image.Image:
    if view.box != (0, 0, *image.size):
        image = image.crop(view.box)
    image = image.resize(view.size, Image.Resampling.BILINEAR)
    if view.size != (INPUT_SIZE, INPUT_SIZE):
        image = image.crop((*view.corner, view.corner[0] + INPUT_SIZE, view.corner[1] + INPUT_SIZE))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def _normalise(clip: Tensor) -> None:
    for channel, plane in enumerate(clip):
        plane.sub_(MEAN[channel % 3]).div_(STD[channel % 3])


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


def take_turns(ways: Mapping[str, Callable[[int], object]], videos: int) -> dict[str, float]:
    """Videos per second of each way, each video read by all of them before the next."""
    seconds = dict.fromkeys(ways, 0.0)
    for index in range(videos):
        for name, work in ways.items():
            started = time.perf_counter()
            work(index)
            seconds[name] += time.perf_counter() - started
    return {name: videos / took for name, took in seconds.items()}


def loaded_per_second(dataset: Dataset, batches: int, collate: Callable | None) -> float:
    """Videos per second through a DataLoader with two workers, from the first two of an even number of batches on."""
    videos = [index % len(dataset) for index in range(batches * BATCH_SIZE)]
    loader = DataLoader(
        dataset, BATCH_SIZE, sampler=videos, num_workers=2, collate_fn=collate, worker_init_fn=worker_init
    )
    arrived = [time.perf_counter() for _ in loader]
    return (batches - 2) * BATCH_SIZE / (arrived[-1] - arrived[1])


def compare_clips(folder: Path, *, videos: int, rounds: int, batches: int, quality: int, mode: str) -> Row:
    """Print the table of one quality, for training or evaluation; what it comes to in one worker."""
    config = get_dataset("bench", folder)
    data = VideoDataset(config, "train", SEGMENTS, INPUT_SIZE, MODES[mode])
    published = PublishedPipeline(data)
    ways = {"published": published.__getitem__, "ours": data.__getitem__, "decode only": partial(decode_only, data)}
    differences = [pixel_difference(data, published, index) for index in range(videos)]  # warms everything up, too
    published.seconds.clear()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    with one_core():
        for _ in range(rounds):
            for name, speed in take_turns(ways, videos).items():
                speeds[name].append(speed)
    loaded: dict[str, list[float]] = {"published": [], "ours": []}
    stages = {stage: 1000 * seconds / (rounds * videos) for stage, seconds in published.seconds.items()}
    for _ in range(rounds):
        loaded["published"].append(loaded_per_second(published, batches, None))
        loaded["ours"].append(loaded_per_second(data, batches, collate_clips))

    print(f"\n{mode}, JPEG quality {quality}")
    for title, table in (("one worker", speeds), ("DataLoader with two workers", loaded)):
        print(f"  {title:<28}{'videos/s':>10}{'ratio':>8}{'ms/video':>10}")
        for name, measured in table.items():
            ratio = statistics.median(here / there for here, there in zip(measured, table["published"], strict=True))
            speed = statistics.median(measured)
            print(f"    {name:<26}{speed:>10.2f}{ratio:>8.2f}{1000 / speed:>10.1f}")
    print("  published, ms: " + ", ".join(f"{stage} {took:.1f}" for stage, took in stages.items()))
    decoding, ours = (1000 / statistics.median(speeds[name]) for name in ("decode only", "ours"))
    print(f"  ours, ms: decode {decoding:.1f}, the rest {ours - decoding:.1f} ({ours / decoding:.2f} times the floor)")
    largest, differing = max(most for most, _ in differences), statistics.mean(share for _, share in differences)
    difference = f"{largest} grey level(s), {100 * differing:.2f} % of the pixels' values differ"
    print(f"  pixels: at most {difference}")
    there, here = (statistics.median(speeds[name]) for name in ("published", "ours"))
    each_round = [ours / published for ours, published in zip(speeds["ours"], speeds["published"], strict=True)]
    return Row(f"loading, {mode}, quality {quality}, videos/s", there, here, statistics.median(each_round), difference)


class one_core:
    """Keep this process on one core, and its libraries on one thread each, within the block."""

    def __enter__(self) -> None:
        self.threads = torch.get_num_threads(), cv2.getNumThreads()
        torch.set_num_threads(1)
        cv2.setNumThreads(0)
        if hasattr(os, "sched_setaffinity"):
            self.cores = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {min(self.cores)})

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.threads[0])
        cv2.setNumThreads(self.threads[1])
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)


def time_lists(folder: Path, *, listed: int, checked: int) -> None:
    """Print how long a long split file takes to read, and the check of a dataset before a run."""
    config = write_lists(
        folder / "long", (f"some_class/v_{row:011d},{100 + row % 200},{row % 2}" for row in range(listed))
    )
    started = time.perf_counter()
    read_annotations(config.train_split, ",", 2)
    print(f"\na list of {listed} videos: read in {time.perf_counter() - started:.1f} s")

    config = write_lists(folder / "checked", (f"class{row % 2}/v_{row:05d},100,{row % 2}" for row in range(checked)))
    annotations = read_annotations(config.train_split, ",", 2)
    for row in range(checked):
        video = config.frames_root / annotations.name(row)
        video.mkdir(parents=True)
        for number in (1, 100):
            (video / config.template.format(number)).write_bytes(b"a frame")
    started = time.perf_counter()
    problems = find_problems(config, annotations)
    print(f"the check of {checked} videos: {time.perf_counter() - started:.1f} s, {len(problems)} problems")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="default: both")
    parser.add_argument("--videos", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way gets (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=8, help="of the DataLoader, an even number (default: 8)")
    parser.add_argument("--quality", type=int, nargs="+", default=[30, 95], help="of the JPEG files (default: 30 95)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="default: both")
    parser.add_argument("--listed", type=int, default=1_000_000, help="length of the long list (default: %(default)s)")
    parser.add_argument("--checked", type=int, default=20_000, help="videos to check (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(args.videos, args.rounds, args.listed, args.checked) < 1:
        raise UserError("--videos, --rounds, --listed and --checked must be 1 or more")
    if args.batches < 4 or args.batches % 2:
        raise UserError("--batches must be an even number, 4 or more")
    with tempfile.TemporaryDirectory() as work:
        if "clips" in args.tables:
            print(f"{args.videos} videos, {SEGMENTS} frames of {WIDTH}x{HEIGHT} pixels each; {args.rounds} rounds")
            for quality in args.quality:
                folder = Path(work) / f"quality{quality}"
                write_videos(folder, args.videos, quality)
                for mode in args.modes:
                    compare_clips(
                        folder,
                        videos=args.videos,
                        rounds=args.rounds,
                        batches=args.batches,
                        quality=quality,
                        mode=mode,
                    )
        if "lists" in args.tables:
            time_lists(Path(work), listed=args.listed, checked=args.checked)


if __name__ == "__main__":
    run_entry(main)
