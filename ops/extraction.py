"""A folder of videos -> a folder of frame folders: the run as a whole, for Python callers and for `ops.video_jpg`."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from ops.errors import UserError
from ops.extraction_plan import ACCEPTED_FORMATS, PlannedVideo, plan
from ops.failure_list import write_failures
from ops.frame_folders import (
    BACKENDS,
    DEFAULT_HEIGHT,
    DEFAULT_JPEG_QUALITY,
    DEFAULT_TEMPLATE,
    FrameSettings,
    FrameTemplate,
    attempt,
    find_unfinished,
    prepare_worker,
    remove_unfinished,
)
from ops.worker_pool import run_jobs

_SECONDS_BETWEEN_LINES = 30.0  # of progress, where the output is not a terminal


@dataclass
class Summary:
    """What became of each video, under its name relative to the source folder; each is in one list."""

    done: list[str] = field(default_factory=list)  # made for the first time
    redone: list[str] = field(default_factory=list)  # made anew, as an earlier attempt was not finished
    skipped: list[str] = field(default_factory=list)  # already there
    failed: list[tuple[str, str]] = field(default_factory=list)  # (video, reason)
    leftovers: int = 0  # unfinished folders removed
    frames: int = 0  # written in this run
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f" ({self.frames / self.seconds:.0f} frames/s)" if self.frames and self.seconds else ""
        leftovers = f", {self.leftovers} unfinished folder(s) removed" if self.leftovers else ""
        return (
            f"{len(self.done)} videos made, {len(self.redone)} made anew, {len(self.skipped)} already there, "
            f"{len(self.failed)} failed{leftovers}; {self.frames} frames in {self.seconds:.1f} s{rate}"
        )


def extract_videos(
    source: Path,
    target: Path,
    *,
    template: str = DEFAULT_TEMPLATE,
    height: int = DEFAULT_HEIGHT,
    frame_rate: float | None = None,
    jpeg_quality: int = DEFAULT_JPEG_QUALITY,
    workers: int = 1,
    backend: str = "opencv",
    accepted_formats: Sequence[str] = ACCEPTED_FORMATS,
    begin: int = 0,
    end: int | None = None,
    file_list: Path | None = None,
    progress: bool = False,
    summary: Summary | None = None,
) -> Summary:
    """Make `target`/NAME/FRAMES for each video `source`/NAME.EXTENSION, sub-folders included.

    Options as on the command line; `frame_rate` None is the file's own, in frames per second. A `summary` handed in is
    filled while the work goes on, so that it can be read after an interruption. Videos that fail are listed there and
    in `target`/failed.txt.

    Raises UserError for options or folders that make no sense; nothing is written then.
    """
    settings = make_settings(template, height, frame_rate, jpeg_quality, backend, workers)
    planned = plan(source, target, settings.template, accepted_formats, begin, end, file_list)
    summary = Summary() if summary is None else summary
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target}: cannot be made ({error.strerror}); choose another folder for the frames") from None
    started = time.monotonic()
    try:
        _carry_out(planned, source, settings, workers, progress, summary)
    finally:
        summary.seconds += time.monotonic() - started
        settled = [*summary.done, *summary.redone, *summary.skipped, *(name for name, _ in summary.failed)]
        write_failures(target, summary.failed, settled, source)
    return summary


def _carry_out(
    planned: Sequence[PlannedVideo],
    source: Path,
    settings: FrameSettings,
    workers: int,
    progress: bool,
    summary: Summary,
) -> None:
    to_make: dict[Path, PlannedVideo] = {}
    for video in planned:
        summary.leftovers += remove_unfinished(video.leftovers)
        if video.action == "skip":
            summary.skipped.append(video.name)
        elif video.action == "fail":
            summary.failed.append((video.name, video.reason))
        else:
            to_make[video.folder] = video
    jobs = [(source / video.name, folder, settings) for folder, video in to_make.items()]
    with _Progress(len(jobs), progress) as display:
        for job, result in run_jobs(attempt, jobs, min(workers, len(jobs)), display.add_frames, prepare_worker):
            video = to_make[job[1]]
            if isinstance(result, int):
                (summary.redone if video.action == "redo" else summary.done).append(video.name)
                summary.frames += result
            else:
                summary.failed.append((video.name, result))
                remove_unfinished(find_unfinished([video.folder]).get(video.folder, ()))  # of a process that died
            display.add_video(failed=not isinstance(result, int))


def make_settings(
    template: str, height: int, frame_rate: float | None, jpeg_quality: int, backend: str, workers: int
) -> FrameSettings:
    """Check the options. Raises UserError for one that makes no sense."""
    if height < 1:
        raise UserError(f"height {height} is no number of pixels: give 1 or more")
    if frame_rate is not None and not 0 < frame_rate < 10_000:
        raise UserError(f"frame rate {frame_rate:g} is no rate: give frames per second, or -1 for the file's own")
    if not 0 <= jpeg_quality <= 100:
        raise UserError(f"JPEG quality {jpeg_quality} is outside 0..100")
    if workers < 1:
        raise UserError(f"{workers} workers cannot do anything: give 1 or more")
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r} is unknown: choose one of {', '.join(BACKENDS)}")
    if backend == "ffmpeg" and not shutil.which("ffmpeg"):
        raise UserError("no program 'ffmpeg' is found: install it, or leave out --backend ffmpeg to use OpenCV")
    threads = 1 if workers > 1 else 0  # one core per process is enough where there are several
    return FrameSettings(FrameTemplate.parse(template), height, frame_rate, jpeg_quality, backend, threads)


class _Progress:
    """A bar over the videos with frames per second; a line now and then where the output is not a terminal."""

    def __init__(self, videos: int, shown: bool):
        self._videos, self._shown = videos, shown and videos > 0
        self._done = self._failed = self._frames = 0
        self._started = self._last_line = time.monotonic()
        self._bar = None
        if self._shown and sys.stderr.isatty():
            self._bar = tqdm(total=videos, unit="video", dynamic_ncols=True, miniters=0, mininterval=0.5)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add_frames(self, frames: int) -> None:
        self._frames += frames
        self._show()

    def add_video(self, failed: bool) -> None:
        self._done += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update()
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        rate = f"{self._frames / max(now - self._started, 1e-3):.0f} frames/s"
        failed = f", {self._failed} failed" if self._failed else ""
        if self._bar is not None:
            self._bar.set_postfix_str(rate + failed, refresh=False)
            self._bar.update(0)
        elif self._shown and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            print(f"{self._done} of {self._videos} videos, {rate}{failed}", file=sys.stderr, flush=True)
