"""Can every listed frame be decoded? What `--check_data full` asks, with as many processes as `--workers`.

Nothing here imports torch, so that the processes start quickly.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2

from dataset_config import DatasetConfig
from ops.data.annotations import Annotations
from ops.data.images import BadFrame, read_array
from ops.utils.processes import progress_bar, run_jobs


class Video(NamedTuple):
    """A job: one video's frames."""

    row: int
    folder: str
    template: str
    frames: int


def find_bad_frames(
    config: DatasetConfig, annotations: Annotations, rows: Sequence[int], workers: int
) -> list[tuple[int, int, str]]:
    """Decode every listed frame of the videos `rows`: (row, frames that are not there, what is wrong with those that
    are) of those with either, in order.

    Under 2 workers, all is done in this process. Shows progress: a bar on a terminal, else a line now and then.
    """
    videos = [
        Video(row, config.video_folder(annotations.name(row)), config.template, int(annotations.frames[row]))
        for row in rows
    ]
    frames = sum(video.frames for video in videos)
    with progress_bar(frames, " frames", annotations.path.name) as bar:
        results = run_jobs(decode_all, videos, workers, bar.update, _one_thread)
        # The result of a job whose process died is a text alone.
        found = ((video, result if isinstance(result, tuple) else (0, str(result))) for video, result in results)
        return sorted((video.row, missing, damage) for video, (missing, damage) in found if missing or damage)


def decode_all(video: Video, report: Callable[[int], None]) -> tuple[int, str]:
    """How many of a video's frames are not there, and what is wrong with the others, in a few words; an empty string
    where all of them can be decoded."""
    missing, bad, first = 0, 0, ""
    for number in range(1, video.frames + 1):
        path = os.path.join(video.folder, video.template.format(number))
        try:
            read_array(path)
        except BadFrame as error:
            if os.path.lexists(path):
                bad += 1
                first = first or str(error).removeprefix(video.folder + os.sep)
            else:
                missing += 1
        report(1)
    if not bad:
        return missing, ""
    more = f"; {missing} {'is' if missing == 1 else 'are'} not there" if missing else ""
    return missing, f"{bad} of {video.frames} frames, first {first}{more}"


def _one_thread() -> None:
    cv2.setNumThreads(0)
