"""Is every listed video there? A look at the data before a run, quick enough for every run.

Each listed video must have a folder, its first and its last listed frame: two questions to the file system per video.
`ops.annotations` has looked at rows and labels by then; `ops.frame_check` decodes every frame, on request.
"""

import argparse
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from errno import ENOENT, ENOTDIR

from dataset_config import DatasetConfig
from ops import distributed
from ops.annotations import Annotations, read_annotations
from ops.dataset import VideoDataset
from ops.errors import EXIT_DONE, UserError, speaks_for_all
from ops.failure_list import printable
from ops.frame_check import find_bad_frames
from ops.setup import find_dataset

NO_FOLDER = "no folder of frames"
NO_FIRST_FRAME = "first frame missing or empty"
NO_LAST_FRAME = "last listed frame missing or empty"
NOT_READABLE = "folder or frame not readable"
BAD_FRAMES = "frames that cannot be decoded"
KINDS = (NO_FOLDER, NO_FIRST_FRAME, NO_LAST_FRAME, NOT_READABLE, BAD_FRAMES)
MISSING = KINDS[:4]  # those that --skip_missing leaves out

_NAMED = 10  # videos of each kind
_THREADS = 16  # a network disk takes milliseconds for an answer, but answers many at a time
_ROWS_AT_A_TIME = 512


@dataclass(frozen=True)
class Problem:
    """What is wrong with one listed video."""

    row: int  # among the annotations
    kind: str
    detail: str


Lists = Mapping[str, Annotations]  # by split, "train" or "val"
Problems = Mapping[str, Sequence[Problem]]


def find_problems(config: DatasetConfig, annotations: Annotations) -> list[Problem]:
    """The listed videos that their first and last frames show not to be there in full, in order; one problem each."""

    def look_at_rows(start: int) -> list[Problem]:
        rows = range(start, min(start + _ROWS_AT_A_TIME, len(annotations)))
        return [problem for row in rows if (problem := _look_at(config, annotations, row))]

    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(look_at_rows, range(0, len(annotations), _ROWS_AT_A_TIME))
        return [problem for some in found for problem in some]


def check_splits(splits: Mapping[str, VideoDataset], skip_missing: bool) -> list[str]:
    """Check the splits that a run is about to use; all processes call this, and the main one looks.

    With `skip_missing`, videos that are not there leave their split, on every process alike. Returns lines for the log.
    Raises UserError on every process, after the main one has printed the first videos of each kind of problem.
    """
    found: tuple[dict[str, list[int]], list[str]] | None = None
    with distributed.fail_together():
        if distributed.is_main_process():
            config = next(iter(splits.values())).config
            lists = {name: data.annotations for name, data in splits.items()}
            found = _judge(lists, {name: find_problems(config, videos) for name, videos in lists.items()}, skip_missing)
    left_out, notes = distributed.broadcast_object(found)
    for name, data in splits.items():
        data.leave_out(left_out[name])
    return notes


def check_only(options: argparse.Namespace, split_names: Sequence[str]) -> int:
    """What `--check_data` does: check these splits ("train", "val"), say so and return the exit code.

    Needs no process group; of several processes only the first does anything. Raises UserError as `check_splits` does.
    """
    if not speaks_for_all():
        return EXIT_DONE
    config = find_dataset(options)
    files = {"train": config.train_split, "val": config.val_split}
    lists = {name: read_annotations(files[name], config.separator, config.num_classes) for name in split_names}
    problems = {name: find_problems(config, videos) for name, videos in lists.items()}
    if options.check_data == "full":
        for name, videos in lists.items():
            missing = {problem.row for problem in problems[name]}
            there = [row for row in range(len(videos)) if row not in missing]
            bad = find_bad_frames(config, videos, there, options.workers)
            problems[name] += [Problem(row, BAD_FRAMES, detail) for row, detail in bad]
    for note in _judge(lists, problems, options.skip_missing)[1]:
        print(note)
    depth = "every listed frame" if options.check_data == "full" else "folder, first and last listed frame"
    for name, videos in lists.items():
        print(f"{files[name]}: {len(videos) - len(problems[name])} of {len(videos)} videos are good ({depth})")
    return EXIT_DONE


def _judge(lists: Lists, problems: Problems, skip_missing: bool) -> tuple[dict[str, list[int]], list[str]]:
    """The rows to leave out of each split, and lines for the log; UserError where the run should not start."""
    notes = _remarks(lists)
    lines = _describe(lists, problems)
    stopping = KINDS if not skip_missing else [kind for kind in KINDS if kind not in MISSING]
    kinds = {problem.kind for found in problems.values() for problem in found}
    if kinds.intersection(stopping):
        print("\n".join([*notes, *lines]), file=sys.stderr)
        count = sum(len(found) for found in problems.values())
        raise UserError(
            f"{count} of {sum(map(len, lists.values()))} listed videos are missing or damaged (see above): "
            f"{_advice(kinds)}"
        )
    left_out = {name: [problem.row for problem in found] for name, found in problems.items()}
    for name, rows in left_out.items():
        if rows and len(rows) == len(lists[name]):
            print("\n".join([*notes, *lines]), file=sys.stderr)
            raise UserError(f"{lists[name].path}: --skip_missing leaves no video; {_advice(kinds)}")
    notes += lines
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


def _describe(lists: Lists, problems: Problems) -> list[str]:
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


def _look_at(config: DatasetConfig, annotations: Annotations, row: int) -> Problem | None:
    folder = os.path.join(config.frames_root, annotations.name(row))
    for number, kind in ((1, NO_FIRST_FRAME), (int(annotations.frames[row]), NO_LAST_FRAME)):
        name = config.template.format(number)
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
