"""How fast videos become frames, and how large and how good the frames are.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --frames 900 --rounds 5 --quality 18 75 90

Makes a synthetic cluttered clip of 640x360 pixels and turns it into frames with the published command in a shell, with
`--backend ffmpeg`, and with OpenCV at several JPEG qualities, in turns on one core, so that a machine that slows down
slows all. Beside the frames per second stand kB per frame and PSNR against the decoded clip (dB). The last row is the
whole script with its default options, start included, against a shell loop of the published command over `--clips`
copies of the clip, on all cores.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import Row, one_core, row_of, run, take_turns
from ops.utils.errors import UserError, run_entry
from ops.video import ffmpeg
from ops.video.frame_folders import FrameSettings, FrameTemplate, make_frames
from ops.video.opencv import PlainVideo, silence_decoders

HEIGHT, WIDTH = 360, 640  # pixels
OPTIONS = {"frames": 300, "rounds": 3, "quality": [18, 75, 90], "clips": 10}
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


def size_and_quality(clip: Path, folder: Path, template: FrameTemplate) -> str:
    """kB per frame and mean PSNR of the frames in `folder` against the decoded clip, in words."""
    sizes, ratios, video = [], [], PlainVideo(clip)
    for number, image in enumerate(video.pictures(range(1, len(video) + 1)), start=1):
        path = folder / template.name(number)
        sizes.append(path.stat().st_size / 1000)
        ratios.append(cv2.PSNR(image, cv2.imread(str(path))))
    return f"{statistics.mean(sizes):.1f} kB, PSNR {statistics.mean(ratios):.1f} dB"


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """A row for each backend and JPEG quality."""
    silence_decoders()
    has_ffmpeg = ffmpeg.is_installed()
    base = FrameSettings(height=HEIGHT, backend="opencv")
    readers = {f"opencv, quality {quality}": replace(base, jpeg_quality=quality) for quality in arguments.quality}
    if has_ffmpeg:
        readers = {"ffmpeg": replace(base, backend="ffmpeg"), **readers}
    with tempfile.TemporaryDirectory() as work:
        clip, turns = Path(work) / "clip.mp4", itertools.count()
        make_clip(clip, arguments.frames)

        def extract(settings: FrameSettings) -> Path:
            folder = Path(work) / str(next(turns))
            make_frames(clip, folder, settings)
            return folder

        def published() -> Path:
            folder = Path(work) / str(next(turns))
            folder.mkdir()
            command = f'ffmpeg -nostdin -v error -i "{clip}" -vf scale=-1:{HEIGHT} "{folder}/image_%05d.jpg"'
            subprocess.run(["sh", "-c", command], check=True)
            return folder

        ways = {name: partial(extract, settings) for name, settings in readers.items()}
        if has_ffmpeg:
            ways["yardstick"] = published
        with one_core():
            seconds, folders = take_turns(ways, arguments.rounds)
        whole = take_turns(whole_runs(clip, arguments.clips, Path(work)), arguments.rounds)[0] if has_ffmpeg else None
        found = {name: size_and_quality(clip, folders[name], base.template) for name in ways}
    there = f", as published {found['yardstick']}" if has_ffmpeg else "; no ffmpeg here"
    for name in readers:
        yield row_of(f"extraction, {name}, frames/s", seconds, found[name] + there, arguments.frames, ours=name)
    if whole:
        yield row_of("extraction, whole script, frames/s", whole, items=arguments.frames * arguments.clips)


def whole_runs(clip: Path, clips: int, work: Path) -> dict[str, Callable[[], None]]:
    """Ways to turn `clips` copies of a clip into frames in new folders."""
    videos, turns = work / "videos", itertools.count()
    videos.mkdir()
    for number in range(clips):
        os.link(clip, videos / f"{number}.mp4")
    command = f'ffmpeg -nostdin -v error -i "$video" -vf scale=-1:{HEIGHT} "$folder/image_%05d.jpg"'
    loop = f'for video in "$0"/*; do folder="$1/${{video##*/}}"; mkdir -p "$folder"; {command}; done'
    script = [sys.executable, "-m", "ops.video_jpg"]

    def run_in_new_folder(words: Sequence[str]) -> None:
        subprocess.run([*words, videos, work / f"whole {next(turns)}"], check=True, stdout=subprocess.DEVNULL)

    return {"ours": partial(run_in_new_folder, script), "yardstick": partial(run_in_new_folder, ["sh", "-c", loop])}


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
