"""The folder of all frames: how they were made, and whether more of them fit on its disk."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ops.utils.errors import UserError
from ops.utils.files import whole_file
from ops.video.errors import VideoError
from ops.video.frame_folders import FrameSettings
from ops.video.reader import stated_length

SETTINGS_FILE = "how_made.json"
_SAMPLED = 24  # videos that are opened for an estimate
_PUBLISHED_BYTES = 12e3  # of a frame of 640 x 360 pixels by the published command, over ActivityNet
# Likewise with OpenCV: JPEG quality and bytes, as benchmarks/extraction.py finds them.
_QUALITIES, _BYTES = (0, 10, 18, 30, 50, 75, 90, 100), (5e3, 10e3, 14e3, 19e3, 25e3, 37e3, 60e3, 150e3)


def prepare_root(root: Path, settings: FrameSettings, holds_frames: bool) -> None:
    """Make the folder, and note there how its frames are made.

    holds_frames: some are there already. Raises UserError where they were made in another way, or the folder cannot be
    made or written.
    """
    path, ours = root / SETTINGS_FILE, settings.recorded()
    try:
        root.mkdir(parents=True, exist_ok=True)
        for left in root.glob(f".{SETTINGS_FILE}.*"):  # by a killed run
            left.unlink(missing_ok=True)
        if path.is_file():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in ours if theirs.get(name) != ours[name]]
            if differing:
                words = ", ".join(f"{name} {theirs.get(name)}, not {ours[name]}" for name in differing)
                raise UserError(f"{root}: its frames were made with {words}; choose another folder or those options")
            if not os.access(root, os.W_OK):
                raise PermissionError(13, os.strerror(13), str(root))
            return
        if holds_frames:
            print(
                f"warning: {root}: nothing says how its frames were made; they are taken as they are", file=sys.stderr
            )
        with whole_file(path) as file:
            file.write((json.dumps(ours) + "\n").encode())
    except (ValueError, AttributeError):
        raise UserError(f"{path}: is not as this program writes it; remove it or choose another folder") from None
    except OSError as error:
        place = error.filename or root
        raise UserError(f"{place}: cannot be made ({error.strerror}); choose another folder for the frames") from None


@dataclass(frozen=True)
class Estimate:
    """What a run will write."""

    videos: int
    frames: int
    bytes: float
    free: int  # bytes on the disk

    def __str__(self) -> str:
        return (
            f"{self.videos} videos to turn into about {self.frames} frames, {self.bytes / 1e9:.1f} GB; "
            f"{self.free / 1e9:.1f} GB are free"
        )


def estimate(videos: Sequence[Path], root: Path, settings: FrameSettings) -> Estimate:
    """How much frames of `videos` will take in `root`, which need not be there yet, from some of them."""
    lengths = []
    for video in videos[:: max(1, len(videos) // _SAMPLED)]:
        try:
            frames, rate = stated_length(video)
        except VideoError:
            continue
        lengths.append(frames * settings.frame_rate / rate if settings.frame_rate else frames)
    frames = round(len(videos) * sum(lengths) / len(lengths)) if lengths else 0
    if settings.uses_ffmpeg:
        size = _PUBLISHED_BYTES
    else:
        size = float(np.interp(settings.jpeg_quality, _QUALITIES, _BYTES))
    while not root.exists():
        root = root.parent
    return Estimate(len(videos), frames, frames * size * (settings.height / 360) ** 2, shutil.disk_usage(root).free)
