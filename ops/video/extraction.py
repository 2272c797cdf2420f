"""A folder of videos -> a folder of frame folders: the run as a whole, for Python callers and for `ops.video_jpg`."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ops.utils.cores import available_cores
from ops.utils.errors import UserError
from ops.utils.failure_list import escape, listed, write_failures
from ops.utils.processes import progress_bar, run_jobs
from ops.video.frame_folders import (
    FLAWS,
    DiskFull,
    FrameSettings,
    Made,
    attempt,
    find_unfinished,
    remove_unfinished,
)
from ops.video.frames_root import estimate, prepare_root
from ops.video.plan import PlannedVideo, Selection, plan


@dataclass
class Summary:
    """What became of each video, under its name relative to the source folder; each is in one list."""

    done: list[str] = field(default_factory=list)  # made for the first time
    redone: list[str] = field(default_factory=list)  # as an earlier attempt was not finished
    skipped: list[str] = field(default_factory=list)  # already there
    failed: list[tuple[str, str]] = field(default_factory=list)  # (video, reason)
    flawed: list[tuple[str, str]] = field(default_factory=list)  # of done and redone: (video, what is wrong with it)
    leftovers: int = 0  # unfinished folders removed
    frames: int = 0  # written in this run
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f" ({self.frames / self.seconds:.0f} frames/s)" if self.frames and self.seconds else ""
        flawed = f", {len(self.flawed)} short or damaged" if self.flawed else ""
        leftovers = f", {self.leftovers} unfinished folder(s) removed" if self.leftovers else ""
        return (
            f"{len(self.done)} videos made, {len(self.redone)} redone, {len(self.skipped)} already there, "
            f"{len(self.failed)} failed{flawed}{leftovers}; {self.frames} frames in {self.seconds:.1f} s{rate}"
        )


def extract_videos(
    source: Path,
    target: Path,
    settings: FrameSettings = FrameSettings(),
    selection: Selection = Selection(),
    *,
    workers: int = 1,
    progress: bool = False,
    summary: Summary | None = None,
) -> Summary:
    """Make `target`/NAME/FRAMES for each video `source`/NAME.EXTENSION, sub-folders included.

    Args:
        settings, selection: how frames are made, and of which videos.
        workers: processes.
        progress: shown on standard error.
        summary: filled while the work goes on, so that it can be read after an interruption.

    Videos that fail are listed in what is returned and in `target`/failed.txt, and so are those that are short or
    damaged. Raises UserError for folders that make no sense, frames that do not fit on the disk or were made in another
    way before, and nothing is written then; also where the disk gets full.
    """
    planned = plan(source, target, settings.template, selection)
    summary = Summary() if summary is None else summary
    to_make = [source / video.name for video in planned if video.action in ("make", "redo")]
    prepare_root(target, settings, any(video.action == "skip" for video in planned))
    if to_make:
        expected = estimate(to_make, target, settings)
        if progress:
            print(expected, flush=True)
        if expected.bytes > expected.free:
            raise UserError(f"{target}: {expected}; choose another disk, or a part by --begin and --end")
    started = time.monotonic()
    full = ""
    try:
        full = _carry_out(planned, source, settings, workers, progress, summary)
    finally:
        summary.seconds += time.monotonic() - started
        still_flawed = listed(target, FLAWS)
        skipped = [name for name in summary.skipped if escape(name) not in still_flawed]
        settled = [*summary.done, *summary.redone, *skipped, *(name for name, _ in summary.failed)]
        write_failures(target, [*summary.failed, *summary.flawed], settled, source)
    if full:
        raise UserError(f"{full}; make room and run this again. So far {summary}")
    return summary


def _carry_out(
    planned: Sequence[PlannedVideo],
    source: Path,
    settings: FrameSettings,
    workers: int,
    progress: bool,
    summary: Summary,
) -> str:
    """Do what is planned; returns where the disk got full, if it did, which ends it."""
    to_make: dict[Path, PlannedVideo] = {}
    for video in planned:
        summary.leftovers += remove_unfinished(video.leftovers)
        if video.action == "skip":
            summary.skipped.append(video.name)
        elif video.action == "fail":
            summary.failed.append((video.name, video.reason))
        else:
            to_make[video.folder] = video
    if 1 < workers >= available_cores():  # each has a core
        settings = replace(settings, decoder_threads=1)
    initialise = None
    if not settings.uses_ffmpeg:
        from ops.video.opencv import prepare_worker as initialise  # takes a while to import
    jobs = [(source / video.name, folder, settings) for folder, video in to_make.items()]
    running = run_jobs(attempt, jobs, min(workers, len(jobs)), lambda frames: None, initialise)
    try:
        with closing(running), progress_bar(len(jobs), "video", shown=progress) as bar:
            for (_, folder, _), result in running:
                video = to_make[folder]
                if isinstance(result, DiskFull):
                    return result
                if isinstance(result, Made):
                    (summary.redone if video.action == "redo" else summary.done).append(video.name)
                    summary.frames += result.frames
                    if result.flaw:
                        summary.flawed.append((video.name, result.flaw))
                else:
                    summary.failed.append((video.name, result))
                bar.set_postfix(frames=summary.frames, failed=len(summary.failed), refresh=False)
                bar.update()
    finally:  # of a process that died, or was stopped while it tidied up
        for left in find_unfinished(to_make).values():
            remove_unfinished(left)
    return ""
