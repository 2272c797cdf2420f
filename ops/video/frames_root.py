"""The folder of all frames: how they were made, and whether more of them fit on its disk."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.utils.errors import UserError
from ops.utils.files import whole_file
from ops.video import ffmpeg
from ops.video.frame_folders import FrameSettings

SETTINGS_FILE = "how_made.json"
_SAMPLED = 24  # videos that are opened for an estimate
_PUBLISHED_BYTES = 12e3  # of a frame of 640 x 360 pixels by the published command, over ActivityNet
# Likewise with OpenCV: bytes up to a JPEG quality, as benchmarks/extraction.py finds them.
_BYTES = {10: 10e3, 18: 14e3, 30: 19e3, 50: 25e3, 75: 37e3, 90: 60e3, 100: 150e3}


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
        theirs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if theirs is not None and not isinstance(theirs, dict):
            raise ValueError
        if theirs is not None and not os.access(root, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except ValueError:
        raise UserError(f"{path}: is not as this program writes it; remove it or choose another folder") from None
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); choose another folder for the frames") from None
    if theirs is None:
        if holds_frames:
            print(
                f"warning: {root}: nothing says how its frames were made; they are taken as they are", file=sys.stderr
            )
        with whole_file(path) as file:
            file.write(json.dumps(ours).encode() + b"\n")
    elif differing := [name for name in ours if theirs.get(name) != ours[name]]:
        words = ", ".join(f"{name} {theirs.get(name)}, not {ours[name]}" for name in differing)
        raise UserError(f"{root}: its frames were made with {words}; choose another folder or those options")


@dataclass(frozen=True)
class Estimate:
    """What a run will write."""

    videos: int
    frames: int
    bytes: float
    free: int  # bytes on the disk

    def __str__(self) -> str:
        return (
            f"{self.videos} videos to turn into about {self.frames} frames, {self.bytes / 1e9:.3f} GB; "
            f"{self.free / 1e9:.3f} GB are free"
        )


def estimate(videos: Sequence[Path], root: Path, settings: FrameSettings) -> Estimate:
    """How much frames of `videos` will take in `root`, which need not be there yet, from some of them."""
    sample = videos[:: -(-len(videos) // _SAMPLED) or 1]
    if settings.uses_ffmpeg:
        lengths, size = ffmpeg.stated_lengths(sample), _PUBLISHED_BYTES
    else:
        from ops.video.opencv import stated_lengths  # takes a while to import

        lengths = stated_lengths(sample)
        size = next(size for quality, size in _BYTES.items() if quality >= settings.jpeg_quality)
    counts = [count * settings.frame_rate / rate if settings.frame_rate else count for count, rate in lengths]
    frames = round(len(videos) * sum(counts) / len(counts)) if counts else 0
    while not root.exists():
        root = root.parent
    return Estimate(len(videos), frames, frames * size * (settings.height / 360) ** 2, shutil.disk_usage(root).free)
