"""A folder of videos -> a folder of frame folders: the run as a whole, for Python callers and for `ops.video_jpg`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ops.utils.errors import UserError
from ops.utils.failure_list import write_failures
from ops.utils.processes import progress_bar, run_jobs
from ops.video.frame_folders import FrameSettings, attempt, find_unfinished, prepare_worker, remove_unfinished
from ops.video.plan import PlannedVideo, Selection, plan


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

    Videos that fail are listed in what is returned and in `target`/failed.txt. Raises UserError for folders that make
    no sense; nothing is written then.
    """
    planned = plan(source, target, settings.template, selection)
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
    if workers > 1:  # one core per process is enough where there are several
        settings = replace(settings, decoder_threads=1)
    jobs = [(source / video.name, folder, settings) for folder, video in to_make.items()]
    with progress_bar(len(jobs), "video", shown=progress) as bar:
        for job, result in run_jobs(attempt, jobs, min(workers, len(jobs)), lambda frames: None, prepare_worker):
            video = to_make[job[1]]
            if isinstance(result, int):
                (summary.redone if video.action == "redo" else summary.done).append(video.name)
                summary.frames += result
            else:
                summary.failed.append((video.name, result))
                remove_unfinished(find_unfinished([video.folder]).get(video.folder, ()))  # of a process that died
            bar.set_postfix(frames=summary.frames, failed=len(summary.failed), refresh=False)
            bar.update()
