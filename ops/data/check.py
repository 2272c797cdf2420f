"""Is every listed video there? A look at the data before a run, quick enough for every run.

Each listed video must have a folder, its first and its last listed frame: two questions to the file system per video.
Counts in lists come from another machine's ffmpeg and are often a few frames too high, so a folder that holds at least
`ENOUGH` of them is good as well, and what is missing is said. `ops.data.annotations` has looked at rows and labels by
then; `ops.data.check_frames` decodes every frame, on request.
"""

import argparse
import math
import os
import stat
import sys
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import ENOENT, ENOTDIR

import torch
from torch import Tensor

from dataset_config import DatasetConfig
from ops.data.annotations import Annotations, read_annotations
from ops.data.check_frames import find_bad_frames
from ops.data.dataset import VideoDataset
from ops.utils import distributed
from ops.utils.errors import EXIT_DONE, UserError
from ops.utils.failure_list import printable

NO_FOLDER = "no folder of frames"
NO_FIRST_FRAME = "first frame missing or empty"
NO_LAST_FRAME = "last listed frame missing or empty"
NOT_READABLE = "folder or frame not readable"
BAD_FRAMES = "frames that cannot be decoded"
FROM_ZERO = "frames numbered from 0, not from 1"
KINDS = (NO_FOLDER, NO_FIRST_FRAME, NO_LAST_FRAME, NOT_READABLE, BAD_FRAMES, FROM_ZERO)
MISSING = KINDS[:4]  # those that --skip_missing leaves out
ENOUGH = 0.9  # of the listed frames: the nearest ones can stand for the rest

_NAMED = 10  # videos of each kind
_THREADS = 16  # a network disk takes milliseconds for an answer, but answers many at a time
_ROWS_AT_A_TIME = 512


@dataclass(frozen=True)
class Problem:
    """What is wrong with one listed video."""

    row: int  # among the annotations
    kind: str
    detail: str


@dataclass(frozen=True)
class ShortVideo:
    """A listed video with most of its listed frames, but not all: no problem, but worth a word."""

    row: int  # among the annotations
    found: int  # frames


Lists = Mapping[str, Annotations]  # by split, "train" or "val"
Findings = Mapping[str, Sequence[Problem | ShortVideo]]


def find_problems(config: DatasetConfig, annotations: Annotations) -> list[Problem | ShortVideo]:
    """The listed videos that their first and last frames show not to be there in full, in order; one finding each."""

    def look_at_rows(start: int) -> list[Problem | ShortVideo]:
        rows = range(start, min(start + _ROWS_AT_A_TIME, len(annotations)))
        return [finding for row in rows if (finding := _look_at(config, annotations, row))]

    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(look_at_rows, range(0, len(annotations), _ROWS_AT_A_TIME))
        return [problem for some in found for problem in some]


def check_splits(splits: Mapping[str, VideoDataset], skip_missing: bool) -> list[str]:
    """Check the splits that a run is about to use; all processes call this, and the main one looks.

    With `skip_missing`, videos that are not there leave their split, on every process alike. Returns lines for the log.
    Raises UserError on every process, after the main one has printed the first videos of each kind of problem.
    """
    found: tuple[dict[str, list[int]], list[str]] | None = None
    config = next(iter(splits.values())).config
    with distributed.fail_together():
        if distributed.is_main_process():
            lists = {name: data.annotations for name, data in splits.items()}
            found = _judge(lists, {name: find_problems(config, videos) for name, videos in lists.items()}, skip_missing)
    left_out, notes = distributed.broadcast_object(found)
    for name, data in splits.items():
        data.leave_out(left_out[name])
    return [*config.notes, *notes]


def check_only(options: argparse.Namespace, config: DatasetConfig, split_names: Sequence[str]) -> int:
    """What `--check_data` does: check these splits ("train", "val"), say so and return the exit code.

    Raises UserError as `check_splits` does.
    """
    files = {"train": config.train_split, "val": config.val_split}
    lists = {name: read_annotations(files[name], config.separator, config.num_classes) for name in split_names}
    findings = {name: find_problems(config, videos) for name, videos in lists.items()}
    if options.check_data == "full":
        for name, videos in lists.items():
            missing = {finding.row: finding for finding in findings[name] if isinstance(finding, Problem)}
            there = [row for row in range(len(videos)) if row not in missing]
            findings[name] = [*missing.values(), *_look_at_all_frames(config, videos, there, options.workers)]
    for note in (*config.notes, *_judge(lists, findings, options.skip_missing)[1]):
        print(note)
    depth = "every listed frame" if options.check_data == "full" else "folder, first and last listed frame"
    for name, videos in lists.items():
        problems = sum(isinstance(finding, Problem) for finding in findings[name])
        print(f"{files[name]}: {len(videos) - problems} of {len(videos)} videos are good ({depth})")
    return EXIT_DONE


def _look_at_all_frames(
    config: DatasetConfig, videos: Annotations, rows: Sequence[int], workers: int
) -> list[Problem | ShortVideo]:
    """What decoding every listed frame of these rows finds."""
    findings: list[Problem | ShortVideo] = []
    for row, missing, damage in find_bad_frames(config, videos, rows, workers):
        listed = int(videos.frames[row])
        if damage:
            findings.append(Problem(row, BAD_FRAMES, damage))
        elif listed - missing < ENOUGH * listed:
            findings.append(Problem(row, BAD_FRAMES, f"{missing} of {listed} frames are not there"))
        else:
            findings.append(ShortVideo(row, listed - missing))
    return findings


def _judge(lists: Lists, findings: Findings, skip_missing: bool) -> tuple[dict[str, list[int]], list[str]]:
    """The rows to leave out of each split, and lines for the log; UserError where the run should not start."""
    notes = _remarks(lists) + _describe_short_videos(lists, findings)
    problems = {name: [one for one in found if isinstance(one, Problem)] for name, found in findings.items()}
    notes += _describe(lists, problems)
    kinds = {problem.kind for found in problems.values() for problem in found}
    left_out = {name: [problem.row for problem in found] for name, found in problems.items()}
    emptied = [lists[name].path for name, rows in left_out.items() if len(rows) == len(lists[name])]
    if kinds.difference(MISSING if skip_missing else ()) or emptied:
        print("\n".join(notes), file=sys.stderr)
        count, listed = sum(map(len, left_out.values())), sum(map(len, lists.values()))
        what = f"{count} of {listed} listed videos are missing or damaged (see above)"
        if emptied and skip_missing and kinds.issubset(MISSING):
            what = f"{emptied[0]}: --skip_missing leaves no video"
        raise UserError(f"{what}: {_advice(kinds)}")
    notes += [
        f"warning: --skip_missing leaves out {len(rows)} of the {len(lists[name])} videos of {lists[name].path}"
        for name, rows in left_out.items()
        if rows
    ]
    return left_out, notes


def _advice(kinds: set[str]) -> str:
    advice = ["extract them again with ops/video_jpg.py", "correct the split files"]
    if NO_FIRST_FRAME in kinds:
        advice.append("say with --frame_template what the frames are called")
    if FROM_ZERO in kinds:
        advice.append("rename each frame to one number more, the last one first")
    if kinds.issubset(MISSING):
        advice.append("leave these videos out with --skip_missing")
    return ", ".join(advice[:-1]) + f", or {advice[-1]}"


def _remarks(lists: Lists) -> list[str]:
    """What the lists say that does not stop a run."""
    notes = []
    for videos in lists.values():
        notes += [f"warning: {warning}" for warning in videos.warnings]
        if videos.left_out:
            notes.append(f"{videos.path}: {_count(videos.left_out, 'row')} with fewer than 3 frames left out")
    if "train" in lists and not (lists["train"].labels == 0).any():
        notes.append(
            f"warning: {lists['train'].path}: no video has the label 0; labels count from 0, so where these count from "
            "1, every video gets the name of the class after its own"
        )
    if len(lists) > 1:
        in_train = set(lists["train"].names())
        both = [name for name in dict.fromkeys(lists["val"].names()) if name in in_train]
        if both:
            notes.append(
                f"warning: {_count(len(both), 'video')} in both splits, which makes the validation figures look better "
                f"than they are: {first_few(both)}"
            )
    return notes


def first_few(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(printable, names[:_NAMED])) + more


def report_replaced(dataset: VideoDataset, say: Callable[[str], None], where: str) -> int:
    """How many frames of the clips so far were replaced, in all processes together; counting starts again from zero.

    All processes call this. Where there are any, `say` gets a line with the first videos' names, after `where` it was.
    """
    counts = distributed.sum_over_processes(dataset.replaced_frames.clone())  # [N]
    dataset.reset_replaced()
    rows, frames = counts.nonzero().flatten().tolist(), int(counts.sum())
    if rows:
        say(
            f"warning: {where}: {frames} frames of {len(rows)} videos could not be read, and the nearest good frame of "
            f"the same video stood in for each: {first_few([dataset.video_name(row) for row in rows])}"
        )
    return frames


class ReplacedFrames:
    """The replaced frames of an epoch's steps so far, where each video comes once; all processes together.

    Data workers read ahead and count what they read. After an interruption that is read again, so here it counts once
    its step is done.
    before: the `totals` of steps that an interrupted run has done. They are put into the dataset's own count.
    """

    def __init__(self, dataset: VideoDataset, before: Mapping[int, int]) -> None:
        self._dataset = dataset
        self._done = torch.zeros(len(dataset), dtype=torch.bool)  # this process's videos
        if distributed.is_main_process():  # for all
            for row, frames in before.items():
                dataset.replaced_frames[row], self._done[row] = frames, True

    def append(self, videos: Tensor) -> None:
        """A step is done: int64 [b], the rows of this process's videos."""
        self._done[videos] = True

    def totals(self) -> dict[int, int]:
        """How many, by the row of the video; videos without any are left out. All processes call this."""
        counts = distributed.sum_over_processes(self._dataset.replaced_frames * self._done)
        return {row: int(counts[row]) for row in counts.nonzero().flatten().tolist()}


def _describe_short_videos(lists: Lists, findings: Findings) -> list[str]:
    """One warning for all of them: how many, and which lacks most."""
    short = [
        (int(lists[name].frames[one.row]) - one.found, lists[name], one)
        for name, found in findings.items()
        for one in found
        if isinstance(one, ShortVideo)
    ]
    if not short:
        return []
    missing, videos, most = max(short, key=lambda entry: entry[0])
    return [
        f"warning: {_count(len(short), 'video')} with fewer frames than listed, at most {missing} fewer "
        f"({printable(videos.name(most.row))}: {most.found} of {videos.frames[most.row]}); the nearest frame stands "
        "for each that is not there"
    ]


def _describe(lists: Lists, problems: Mapping[str, Sequence[Problem]]) -> list[str]:
    """Each kind of problem with how many videos have it, and the first of them."""
    lines = []
    for kind in KINDS:
        having = [
            (lists[name], problem) for name, found in problems.items() for problem in found if problem.kind == kind
        ]
        if having:
            lines.append(f"{kind}: {_count(len(having), 'video')}")
        for videos, problem in having[:_NAMED]:
            where = f"{videos.path}:{videos.line_numbers[problem.row]}"
            lines.append(f"  {printable(videos.name(problem.row))} ({where}): {printable(problem.detail)}")
        if len(having) > _NAMED:
            lines.append(f"  and {len(having) - _NAMED} more")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _look_at(config: DatasetConfig, annotations: Annotations, row: int) -> Problem | ShortVideo | None:
    name, listed = annotations.name(row), int(annotations.frames[row])
    folder = os.path.join(config.frames_root, name)
    problem = _missing_end(folder, config.template, listed, row)
    if problem and problem.kind == NO_FOLDER and (other := config.video_folder(name)) != folder:
        folder, problem = other, _missing_end(other, config.template, listed, row)
    if problem is None or problem.kind == NO_FOLDER:
        return problem
    if problem.kind == NO_LAST_FRAME and _is_frame(folder, config.template, 0):
        return Problem(row, FROM_ZERO, f"{config.template.format(0)} is there, and not {problem.detail}")
    found = count_frames(folder, config.template, listed)
    return ShortVideo(row, found) if found >= ENOUGH * listed else problem


def count_frames(folder: str, template: str, listed: int) -> int:
    """How many of the frames 1..listed a folder holds; quickly where only the last ones are missing, as is usual."""
    enough = math.ceil(ENOUGH * listed)
    if not (_is_frame(folder, template, 1) and _is_frame(folder, template, enough)):
        try:
            names = {entry.name for entry in os.scandir(folder) if entry.is_file() and entry.stat().st_size}
        except OSError:
            return 0
        return sum(template.format(number) in names for number in range(1, listed + 1))
    return enough + bisect_left(range(enough + 1, listed + 1), True, key=lambda n: not _is_frame(folder, template, n))


def _is_frame(folder: str, template: str, number: int) -> bool:
    try:
        found = os.stat(os.path.join(folder, template.format(number)))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _missing_end(folder: str, template: str, listed: int, row: int) -> Problem | None:
    """What is wrong with the first frame, else with the last listed one."""
    for number, kind in ((1, NO_FIRST_FRAME), (listed, NO_LAST_FRAME)):
        name = template.format(number)
        try:
            found = os.stat(os.path.join(folder, name))
            if not stat.S_ISREG(found.st_mode) or not found.st_size:
                return Problem(row, kind, f"{name} {_contents(folder)}")
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                return Problem(row, NOT_READABLE, f"{os.path.join(folder, name)}: {error.strerror}")
            if not os.path.isdir(folder):
                return Problem(row, NO_FOLDER, folder)
            return Problem(row, kind, f"{name} {_contents(folder)}")
    return None


def _contents(folder: str) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"(the folder cannot be listed: {error.strerror})"
    return f"(the folder holds {len(names)} files, {names[0]} to {names[-1]})" if names else "(the folder is empty)"
