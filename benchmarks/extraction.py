"""How fast videos become frames, and how large and how good the frames are.

    python benchmarks/extraction.py
    python benchmarks/extraction.py --frames 900 --rounds 5

Makes a synthetic cluttered clip of 640x360 pixels and turns it into frames with OpenCV and, where the program is there,
with the published ffmpeg command, in turns on one core, so that a machine that slows down slows both. Prints frames per
second, their ratio, kB per frame and PSNR against the decoded clip (dB), for several JPEG qualities.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import cv2
import numpy as np

from benchmarks.rows import Row
from ops.errors import UserError, run_entry
from ops.frame_folders import FrameSettings, FrameTemplate, make_frames
from ops.video_reader import read_frames, silence_decoders

HEIGHT, WIDTH = 360, 640  # pixels
PUBLISHED = "ffmpeg, as published"
_CLIP_RATE = 30.0  # frames per second
_DETAIL = ((2, 6), (4, 10), (8, 16), (16, 24), (40, 30))  # (size of a blotch in pixels, contrast in grey levels)


def cluttered_scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with detail at every scale, as in nature, and with sharp edges and text: uint8 [height, width, 3]."""
    generator = np.random.default_rng(seed)
    scene = np.full((height, width, 3), 128, np.float32)
    for size, contrast in _DETAIL:
        shape = height // size + 2, width // size + 2
        grey = generator.standard_normal((*shape, 1)).astype(np.float32)
        colour = generator.standard_normal((*shape, 3)).astype(np.float32) * (0.3 if size >= 16 else 0.0)
        scene += contrast * cv2.resize(grey + colour, (width, height), interpolation=cv2.INTER_CUBIC)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    for _ in range(height * width // 5000):
        x, y = int(generator.integers(width)), int(generator.integers(height))
        colour = tuple(int(level) for level in generator.integers(0, 255, 3))
        if generator.random() < 0.5:
            across, down = (int(side) for side in generator.integers(5, 70, 2))
            cv2.rectangle(scene, (x, y), (x + across, y + down), colour, -1)
        else:
            cv2.putText(scene, "focus", (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4 + generator.random(), colour, 2)
    return scene


def make_clip(path: Path, frames: int) -> None:
    """Write a clip in which the camera glides over a cluttered scene."""
    scene = cluttered_scene(HEIGHT + 200, WIDTH + 400)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), _CLIP_RATE, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise UserError("OpenCV cannot write an MP4 file here: install opencv-python from PyPI")
    for number in range(frames):
        top, left = number // 2 % 200, 2 * number % 400
        writer.write(np.ascontiguousarray(scene[top : top + HEIGHT, left : left + WIDTH]))
    writer.release()


def measure(clip: Path, folder: Path, settings: FrameSettings) -> float:
    """Turn the clip into frames in a new `folder`; frames per second."""
    started = time.perf_counter()
    frames = make_frames(clip, folder, settings, lambda _: None)
    return frames / (time.perf_counter() - started)


def size_and_quality(clip: Path, folder: Path, template: FrameTemplate) -> tuple[float, float]:
    """(kB per frame, mean PSNR in dB) of the frames in `folder` against the decoded clip."""
    sizes, ratios = [], []
    for number, (_, image) in enumerate(read_frames(clip), start=1):
        path = folder / template.name(number)
        sizes.append(path.stat().st_size / 1000)
        ratios.append(cv2.PSNR(image, cv2.imread(str(path))))
    return statistics.mean(sizes), statistics.mean(ratios)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="length of the clip (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each reader gets (default: %(default)s)")
    parser.add_argument("--jpeg_quality", type=int, nargs="+", default=[30, 75, 90], help="default: 30 75 90")
    args = parser.parse_args(argv)
    if args.frames < 1 or args.rounds < 1:
        raise UserError("--frames and --rounds must be 1 or more")
    compare(args.frames, args.rounds, args.jpeg_quality)


def compare(frames: int, rounds: int, qualities: Sequence[int]) -> Row:
    """Print the table; what the first of the JPEG qualities comes to. Keeps this process to one core from then on."""
    silence_decoders()
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for ffmpeg too

    base = FrameSettings(height=HEIGHT, decoder_threads=1)
    readers = {f"opencv, quality {quality}": replace(base, jpeg_quality=quality) for quality in qualities}
    if shutil.which("ffmpeg"):
        readers[PUBLISHED] = replace(base, backend="ffmpeg")
    names = list(readers)
    speeds: dict[str, list[float]] = {name: [] for name in readers}
    with tempfile.TemporaryDirectory() as work:
        clip = Path(work) / "clip.mp4"
        make_clip(clip, frames)
        print(f"clip: {frames} frames of {WIDTH}x{HEIGHT} pixels; {rounds} rounds on one core")
        for turn in range(rounds):
            for name, settings in readers.items():
                speeds[name].append(measure(clip, Path(work) / name / str(turn), settings))
        median = {name: statistics.median(measured) for name, measured in speeds.items()}
        print(f"{'reader':<22}{'frames/s':>10}{'ratio':>8}{'kB/frame':>10}{'PSNR dB':>9}")
        found = {}
        for name, settings in readers.items():
            kilobytes, decibels = size_and_quality(clip, Path(work) / name / "0", settings.template)
            found[name] = f"PSNR {decibels:.1f} dB"
            ratio = median[name] / median[names[-1]]
            print(f"{name:<22}{median[name]:>10.0f}{ratio:>8.2f}{kilobytes:>10.1f}{decibels:>9.1f}")
        print(f"ratio: to {names[-1]}")
    ours, difference = names[0], found[names[0]]
    if names[-1] != PUBLISHED:
        return Row(f"extraction, {ours}, frames/s", None, median[ours], None, f"{difference}; no ffmpeg here")
    difference += f", {found[names[-1]]} as published"
    there = median[names[-1]]
    return Row(f"extraction, {ours}, frames/s", there, median[ours], median[ours] / there, difference)


if __name__ == "__main__":
    run_entry(main)
