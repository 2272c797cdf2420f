"""One video -> one folder of JPEG frames, whole or not at all.

Frames are made in a hidden folder beside the final one, `.unfinished-HASH-RANDOM`, which is renamed when the video is
complete. So a folder that holds frames is finished, whoever made it, and what a killed run leaves is easily told apart.
The hash stands for the video's name: runs on different parts of a data set leave each other's work alone.
"""

import hashlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from ops.utils.errors import UserError
from ops.video.reader import VideoError, count_packets, read_facts, read_frames, silence_decoders

BACKENDS = ("opencv", "ffmpeg")
DEFAULT_HEIGHT = 360
DEFAULT_JPEG_QUALITY = 75
_UNFINISHED = ".unfinished"
_NUMBER = re.compile(r"%(?:0(\d))?d|\{(?::0(\d)d|:d|)\}")


@dataclass(frozen=True)
class FrameTemplate:
    """How frame files are named: `before`, the frame's number from 1 with at least `digits` digits, `after`."""

    before: str
    digits: int
    after: str

    @classmethod
    def parse(cls, text: str) -> "FrameTemplate":
        """Read `image_%05d.jpg` or `image_{:05d}.jpg`. Raises UserError where it is neither."""
        found = _NUMBER.search(text)
        rest = text[: found.start()] + text[found.end() :] if found else text
        if not found or any(character in rest for character in "%{}/\\\0") or text.startswith("."):
            raise UserError(f"frame template {text!r} does not number frames: write it like image_%05d.jpg")
        if not text.lower().endswith((".jpg", ".jpeg")):
            raise UserError(f"frame template {text!r}: frames are JPEG files; let it end in .jpg")
        return cls(text[: found.start()], int(found[1] or found[2] or 1), text[found.end() :])

    def name(self, number: int) -> str:
        """The file name of frame `number` (1, 2, ...)."""
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    @property
    def for_printf(self) -> str:
        return f"{self.before}%0{self.digits}d{self.after}"

    @cached_property
    def _pattern(self) -> re.Pattern:
        return re.compile(re.escape(self.before) + r"(\d+)" + re.escape(self.after))

    def numbers(self, folder: Path) -> set[int]:
        """The numbers of the frame files in `folder`; none where there is no such folder."""
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {int(found[1]) for found in map(self._pattern.fullmatch, names) if found}


@dataclass(frozen=True)
class FrameSettings:
    """How frames are made; see the options of `ops.video_jpg`. Raises UserError for what makes no sense."""

    template: FrameTemplate = FrameTemplate("image_", 5, ".jpg")
    height: int = DEFAULT_HEIGHT  # pixels
    frame_rate: float | None = None  # per second; None: the file's own
    jpeg_quality: int = DEFAULT_JPEG_QUALITY  # 0..100, for the OpenCV backend
    backend: str = "opencv"
    decoder_threads: int = 0  # 0: chosen by the decoder

    def __post_init__(self) -> None:
        if self.height < 1:
            raise UserError(f"height {self.height} is no number of pixels: give 1 or more")
        if self.frame_rate is not None and not 0 < self.frame_rate < 10_000:
            raise UserError(f"frame rate {self.frame_rate:g} is no rate: give frames per second, or -1 for the file's")
        if not 0 <= self.jpeg_quality <= 100:
            raise UserError(f"JPEG quality {self.jpeg_quality} is outside 0..100")
        if self.backend not in BACKENDS:
            raise UserError(f"backend {self.backend!r} is unknown: choose one of {', '.join(BACKENDS)}")
        if self.backend == "ffmpeg" and not shutil.which("ffmpeg"):
            raise UserError("no program 'ffmpeg' is found: install it, or leave out --backend ffmpeg to use OpenCV")


def is_finished(folder: Path, template: FrameTemplate) -> bool:
    """Whether `folder` holds frames. Raises VideoError where it holds something else, which must not be touched."""
    if (folder / template.name(1)).is_file():
        return True
    if not folder.is_dir():
        if folder.exists():
            raise VideoError(f"{folder} is in the way; move it")
        return False
    names = [name for name in os.listdir(folder) if not name.startswith(_UNFINISHED)]
    if names and not template.numbers(folder):
        raise VideoError(f"{folder} holds other files, such as {names[0]}, but no {template.name(1)}; move it")
    return bool(names)


def find_unfinished(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """What earlier attempts at each of `folders` left: hidden folders, and the folder itself where it is empty.

    Only folders with something left appear. Each parent is listed once, however many folders it holds.
    """
    hidden: dict[tuple[Path, str], list[Path]] = {}
    found: dict[Path, list[Path]] = {}
    listed: set[Path] = set()
    for folder in folders:
        parent, mark = folder.parent, _unfinished_mark(folder)
        if parent not in listed:
            listed.add(parent)
            for name in os.listdir(parent) if parent.is_dir() else ():
                if name.startswith(_UNFINISHED):
                    hidden.setdefault((parent, name[: len(mark)]), []).append(parent / name)
        left = hidden.get((parent, mark), [])
        if folder.is_dir() and not any(os.scandir(folder)):
            left = [*left, folder]
        if left:
            found[folder] = left
    return found


def remove_unfinished(folders: Iterable[Path]) -> int:
    """Remove what `find_unfinished` found; returns how many are gone. A folder that was empty must still be."""
    removed = 0
    for folder in folders:
        if folder.name.startswith(_UNFINISHED):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(OSError):
                folder.rmdir()
        removed += not folder.exists()
    return removed


def prepare_worker() -> None:
    """What each of several processes does first: keep to one core, and keep the decoders' messages off the terminal."""
    cv2.setNumThreads(1)
    silence_decoders()


def attempt(job: tuple[Path, Path, FrameSettings], report: Callable[[int], None]) -> int | str:
    """`make_frames` for (video, folder, settings): the number of frames, or why there are none, in one line."""
    video, folder, settings = job
    try:
        return make_frames(video, folder, settings, report)
    except VideoError as error:
        return str(error)
    except OSError as error:
        return f"{error.strerror or error}: {error.filename or folder}"
    except cv2.error as error:
        return f"OpenCV: {error.err or error}"


def make_frames(video: Path, folder: Path, settings: FrameSettings, report: Callable[[int], None]) -> int:
    """Turn one video into `folder`, which must not hold anything yet, and return the number of frames.

    `report(n)` is called for every n frames written. Raises VideoError or OSError; then, and when stopped by any other
    exception, nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f"{_unfinished_mark(folder)}{secrets.token_hex(4)}"
    try:
        unfinished.mkdir()  # in here, as a signal may be handled as soon as the folder is there
        if settings.backend == "ffmpeg":
            frames = _run_ffmpeg(video, unfinished, settings)
            report(frames)
        else:
            frames = _write_frames(video, unfinished, settings, report)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return frames


def scaled_size(height: int, width: int, new_height: int) -> tuple[int, int]:
    """(height, width) after scaling to `new_height` pixels: the width is rounded as in ffmpeg's `scale=-1:HEIGHT`."""
    return new_height, max(1, (2 * new_height * width + height) // (2 * height))


def scaled(image: np.ndarray, new_height: int) -> np.ndarray:
    """An image uint8 [H, W, 3] at the height that frames are written with."""
    height, width = scaled_size(*image.shape[:2], new_height)
    if (height, width) == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=method)


def ffmpeg_command(video: Path, settings: FrameSettings) -> list[str]:
    """The arguments that write frames into the working directory. No shell is involved, and no name is taken for an
    option or a protocol."""
    rate = ["-r", f"{settings.frame_rate:.12g}"] if settings.frame_rate else []
    threads = ["-threads", str(settings.decoder_threads)] if settings.decoder_threads else []
    source = ["-i", f"file:{os.path.abspath(video)}"]
    scale = ["-vf", f"scale=-1:{settings.height}"]
    return ["ffmpeg", "-nostdin", "-v", "error", *threads, *source, *scale, *rate, f"./{settings.template.for_printf}"]


def _unfinished_mark(folder: Path) -> str:
    return f"{_UNFINISHED}-{hashlib.sha1(os.fsencode(folder.name)).hexdigest()[:16]}-"


def _write_frames(video: Path, folder: Path, settings: FrameSettings, report: Callable[[int], None]) -> int:
    quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
    number, content = 0, b""
    for copies, image in read_frames(video, settings.frame_rate, settings.decoder_threads):
        if image is not None:
            image = scaled(image, settings.height)
            encoded, buffer = cv2.imencode(".jpg", image, quality)
            if not encoded:
                height, width = image.shape[:2]
                raise VideoError(f"frame {number + 1} of {width} x {height} pixels cannot be held by a JPEG file")
            content = buffer.tobytes()
        for _ in range(copies):
            number += 1
            (folder / settings.template.name(number)).write_bytes(content)
        report(copies)
    return number


def _run_ffmpeg(video: Path, folder: Path, settings: FrameSettings) -> int:
    try:
        facts, packets = read_facts(video), count_packets(video)
    except VideoError:
        if video.stat().st_size == 0:
            raise
        facts, packets = None, 0  # ffmpeg may know formats that OpenCV does not
    # A session of its own: Ctrl-C reaches this process alone, which then ends ffmpeg and tidies up.
    result = subprocess.run(
        ffmpeg_command(video, settings),
        cwd=folder,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    frames = len(settings.template.numbers(folder))
    if result.returncode or frames == 0:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        raise VideoError(lines[-1] if lines else "ffmpeg wrote no frame")
    if facts is not None:
        seconds = frames / (settings.frame_rate or facts.nominal_rate)
        read = packets if settings.frame_rate else min(packets, frames)
        if facts.cut_short(read, seconds):
            raise VideoError(f"cut short: the header promises {facts.promised_frames:.0f} frames, {read} are there")
    return frames
