"""One video -> one folder of JPEG frames, whole or not at all.

Frames are made in a hidden folder beside the final one, `.unfinished-HASH-RANDOM`, which is renamed when the video is
complete. So a folder that holds frames is finished, whoever made it, and what a killed run leaves is easily told apart.
The hash stands for the video's name: runs on different parts of a dataset leave each other's work alone.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ops.utils.errors import UserError
from ops.video import ffmpeg
from ops.video.errors import VideoError, check_readable

BACKENDS = ("auto", "ffmpeg", "opencv")
FLAWS = ("short:", "damaged:")  # how the words about a video begin that was kept although something is wrong with it
KEPT_SHARE = 0.9  # of the promised frames; a video that gives less is refused
DEFAULT_HEIGHT = 360
DEFAULT_JPEG_QUALITY = 18  # of OpenCV: files about as large as the published ones
_UNFINISHED = ".unfinished"
_ATTEMPTS = 100  # to remove a folder that the ffmpeg of a killed run still writes into; it ends when the folder is gone
_LONGEST = 100  # letters of a template; file systems take 255 bytes
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
        if not found or any(part in rest for part in "%{}/\\\0") or text.startswith(".") or len(text) > _LONGEST:
            raise UserError(f"frame template {text!r:.99} does not number frames: write it like image_%05d.jpg")
        if not text.lower().endswith((".jpg", ".jpeg")):
            raise UserError(f"frame template {text!r}: frames are JPEG files; let it end in .jpg")
        return cls(text[: found.start()], int(found[1] or found[2] or 1), text[found.end() :])

    def name(self, number: int) -> str:
        """The file name of frame `number` (1, 2, ...)."""
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    @property
    def for_printf(self) -> str:
        """As ffmpeg takes it: `image_%05d.jpg`."""
        return f"{self.before}%0{self.digits}d{self.after}"

    @property
    def for_format(self) -> str:
        """As `str.format` takes it: `image_{:05d}.jpg`."""
        return f"{self.before}{{:0{self.digits}d}}{self.after}"

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
    backend: str = BACKENDS[0]  # "auto": ffmpeg where it is installed, else OpenCV
    decoder_threads: int = 0  # 0: chosen by the decoder
    strict: bool = False  # refuse videos that are damaged or short

    def __post_init__(self) -> None:
        if self.height < 1:
            raise UserError(f"height {self.height} is no number of pixels: give 1 or more")
        if self.frame_rate is not None and not 0 < self.frame_rate < 10_000:
            raise UserError(f"frame rate {self.frame_rate:g} is no rate: give frames per second, or -1 for the file's")
        if not 0 <= self.jpeg_quality <= 100:
            raise UserError(f"JPEG quality {self.jpeg_quality} is outside 0..100")
        if self.backend not in BACKENDS:
            raise UserError(f"backend {self.backend!r} is unknown: choose one of {', '.join(BACKENDS)}")
        if self.backend == "ffmpeg" and not ffmpeg.is_installed():
            raise UserError("no program 'ffmpeg' is found: install it (apt-get install ffmpeg), or use --backend auto")

    @property
    def uses_ffmpeg(self) -> bool:
        """Whether ffmpeg makes the frames, else OpenCV."""
        return self.backend == "ffmpeg" or (self.backend == "auto" and ffmpeg.is_installed())

    def recorded(self) -> dict[str, str | float | None]:
        """What frames depend on, for a file beside them."""
        return {
            "backend": "ffmpeg" if self.uses_ffmpeg else "opencv",
            "height": self.height,
            "frame_rate": self.frame_rate,
            "template": self.template.for_format,
            "jpeg_quality": None if self.uses_ffmpeg else self.jpeg_quality,
        }


class DiskFull(str):
    """Why no further video can be turned into frames."""


@dataclass(frozen=True)
class Made:
    """One folder of frames."""

    frames: int
    rate: float  # per second; 0 where that is not known
    flaw: str = ""  # what is wrong with the video that they were made of, empty for an intact one


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
            for _ in range(_ATTEMPTS):
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():
                    break
        else:
            with suppress(OSError):
                folder.rmdir()
        removed += not folder.exists()
    return removed


def attempt(job: tuple[Path, Path, FrameSettings], _: object = None) -> Made | str:
    """`make_frames` for (video, folder, settings), or why there are no frames, in one line; `DiskFull` for all."""
    video, folder, settings = job
    try:
        return make_frames(video, folder, settings)
    except VideoError as error:
        return str(error)
    except OSError as error:
        why = f"{error.strerror or error}: {folder}"
        return DiskFull(why) if error.errno in (errno.ENOSPC, errno.EDQUOT) else why


def make_frames(video: Path, folder: Path, settings: FrameSettings) -> Made:
    """Turn one video into `folder`, which must not hold anything yet.

    Raises VideoError or OSError; then, and when stopped by any other exception, nothing is left behind.
    """
    check_readable(video)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.parent / f"{_unfinished_mark(folder)}{secrets.token_hex(4)}"
    try:
        unfinished.mkdir()  # in here, as a signal may be handled as soon as the folder is there
        if settings.uses_ffmpeg:
            made = _run_ffmpeg(video, unfinished, settings)
        else:
            from ops.video.opencv import write_frames  # OpenCV takes as long to import as ffmpeg for a hundred frames

            rate, height, quality = settings.frame_rate, settings.height, settings.jpeg_quality
            made = Made(*write_frames(video, unfinished, settings.template.name, rate, height, quality))
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return made


def _unfinished_mark(folder: Path) -> str:
    return f"{_UNFINISHED}-{hashlib.sha1(os.fsencode(folder.name)).hexdigest()[:16]}-"


def _run_ffmpeg(video: Path, folder: Path, settings: FrameSettings) -> Made:
    pattern, threads = settings.template.for_printf, settings.decoder_threads
    command = ffmpeg.published_command(video, settings.height, settings.frame_rate, pattern, threads)
    outcome = ffmpeg.run_published(command, folder)
    frames = len(settings.template.numbers(folder))
    if frames == 0:
        raise ffmpeg.unreadable(outcome.problem or "no frame in it")
    promised = round(ffmpeg.promised_frames(video, outcome, frames))
    flaw = ""
    if frames < promised - 1:
        flaw = f"{FLAWS[0]} {frames} of {promised} promised frames"
    elif outcome.problem:
        flaw = f"{FLAWS[1]} {frames} of {promised} promised frames ({outcome.problem})"
    if flaw and (settings.strict or frames < KEPT_SHARE * promised):
        raise VideoError(flaw)
    return Made(frames, outcome.rate, flaw)
