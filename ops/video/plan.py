"""Which videos of a folder are to be turned into frames: found, compared with what is there, checked for collisions.

Everything is decided before the first video is opened, from the whole folder, so that runs on parts of it agree.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ops.utils.errors import UserError
from ops.utils.failure_list import printable
from ops.video.errors import VideoError
from ops.video.frame_folders import FrameTemplate, find_unfinished, is_finished

ACCEPTED_FORMATS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".wmv", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts", ".ogv",
    ".vob",
)  # fmt: skip


@dataclass(frozen=True)
class PlannedVideo:
    """One video and what is to be done with it."""

    name: str  # relative to the source folder
    folder: Path  # of its frames
    action: str  # "make", "redo", "skip" or "fail"
    reason: str = ""  # of "fail"
    leftovers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Selection:
    """Which videos of a folder: those of some formats, in sorted order, or those that a file lists, in its order."""

    accepted_formats: Sequence[str] = ACCEPTED_FORMATS
    begin: int = 0  # the first of that list, from 0
    end: int | None = None  # the last, counted in; None for all
    file_list: Path | None = None


def plan(source: Path, target: Path, template: FrameTemplate, selection: Selection = Selection()) -> list[PlannedVideo]:
    """What there is to do, in the order of the selection; nothing is written.

    Raises UserError where `source` or the list of the selection cannot be read, or `source` holds no video.
    """
    names = find_videos(source, target, selection.accepted_formats)
    if not names:
        formats = " ".join(selection.accepted_formats)
        raise UserError(f"{source}: no video in this folder ({formats}); see --accepted_formats")
    problems = _find_collisions(names)
    if selection.file_list is not None:
        names = _restrict(names, selection.file_list)
    if selection.begin >= len(names) > 0:
        print(f"warning: --begin {selection.begin}: the last video is number {len(names) - 1}", file=sys.stderr)
    names = names[selection.begin : None if selection.end is None else selection.end + 1]
    folders = [target / PurePosixPath(name).with_suffix("") for name in names]
    unfinished = find_unfinished(folders)
    planned = []
    for name, folder in zip(names, folders, strict=True):
        video = PlannedVideo(name, folder, "make", leftovers=tuple(unfinished.get(folder, ())))
        try:
            if name in problems:
                video = PlannedVideo(name, folder, "fail", problems[name])
            elif is_finished(folder, template):
                video = replace(video, action="skip")
            elif video.leftovers:
                video = replace(video, action="redo")
        except (VideoError, OSError) as error:
            video = replace(video, action="fail", reason=str(error))
        planned.append(video)
    return planned


def find_videos(source: Path, target: Path, accepted_formats: Sequence[str] = ACCEPTED_FORMATS) -> list[str]:
    """Names, relative to `source` with forward slashes, of all videos there and in sub-folders, sorted.

    Hidden files and folders are passed over, as is `target` where it lies inside `source`.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder of videos")
    endings = {ending.lower() if ending.startswith(".") else f".{ending.lower()}" for ending in accepted_formats}
    return sorted(
        (folder / name).as_posix()
        for folder, files in visible_folders(source, target)
        for name in files
        if Path(name).suffix.lower() in endings
    )


def visible_folders(source: Path, left_out: Path | None = None) -> Iterator[tuple[Path, list[str]]]:
    """`source` (as `.`) and all its sub-folders, relative to it, each with its files; hidden ones are passed over.

    Links are followed, but no folder comes twice; `left_out` does not come, nor what is in it. Raises UserError for a
    folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions") from None

    seen = {left_out.resolve()} if left_out else set()
    for folder, inner, files in os.walk(source, onerror=stop, followlinks=True):
        here = Path(folder).resolve()
        if here in seen:  # a link may lead back up
            inner.clear()
            continue
        seen.add(here)
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield Path(folder).relative_to(source), [name for name in files if not name.startswith(".")]


def _find_collisions(names: Sequence[str]) -> dict[str, str]:
    """Videos whose frames would get among those of another: name -> why. The first of two with one folder is fine."""
    problems, owners, parents = {}, {}, {}
    for name in names:
        folder = PurePosixPath(name).with_suffix("")
        if folder in owners:
            problems[name] = f"shares its folder of frames, {folder}, with {owners[folder]}; rename one of them"
        else:
            owners[folder] = name
            parents.update(dict.fromkeys(folder.parents, name))
    for folder in owners.keys() & parents.keys():
        problems[owners[folder]] = f"its folder of frames, {folder}, would also hold {parents[folder]}; rename one"
    return problems


def _restrict(names: Sequence[str], file_list: Path) -> list[str]:
    """Those of `names` that a text file lists, one per line, with or without extension, in the file's order."""
    try:
        lines = file_list.read_bytes().decode("utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise UserError(f"{file_list}: cannot be read ({error.strerror}); check --file_list") from None
    listed = dict.fromkeys(line.rstrip("\r").removeprefix("./") for line in lines if line.strip())
    meant: dict[str, list[str]] = {}
    for name in names:
        for spelling in {name, str(PurePosixPath(name).with_suffix(""))}:
            meant.setdefault(spelling, []).append(name)
    missing = [name for name in listed if name not in meant]
    if missing:
        first = printable(missing[0])
        print(f"warning: {file_list}: {len(missing)} names are no video here, such as {first}", file=sys.stderr)
    return list(dict.fromkeys(name for spelling in listed for name in meant.get(spelling, ())))
