"""What the user named -> videos: files, folders of them, folders of frames, and patterns that no shell expanded."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_config import COMMON_TEMPLATES
from ops.utils.errors import UserError
from ops.utils.failure_list import printable
from ops.video.plan import ACCEPTED_FORMATS, visible_folders


@dataclass(frozen=True)
class FoundVideo:
    """A video file, or a folder of frames."""

    path: Path  # as the user would write it
    template: str | None = None  # how the frames are named; None for a file


def find(names: Sequence[str]) -> list[FoundVideo]:
    """The videos of the command line, each once: in the order of `names`, those of one name sorted.

    A file is a video whatever its ending. A folder stands for the video files in it and its sub-folders, by their
    endings, and for each folder among these that holds frames numbered from 1. A name that is neither may be a pattern:
    * ? [ ] in a name, ** for any folders. Raises UserError for a name that stands for nothing.
    """
    found: dict[str, FoundVideo] = {}
    if isinstance(names, str):
        raise TypeError(f"find takes a list of names: find([{names!r}])")
    for name in names:
        if not name:
            raise UserError("an empty name was given as a video: name a file, a folder or a pattern")
        videos = [video for path in _paths(name) for video in _videos_of(path)]
        if not videos:
            endings = " ".join(ACCEPTED_FORMATS)
            raise UserError(
                f"{printable(name)}: no video there ({endings}), nor a folder of frames such as "
                f"{COMMON_TEMPLATES[0].format(1)}"
            )
        for video in videos:
            found.setdefault(os.path.abspath(video.path), video)
    return list(found.values())


def _paths(name: str) -> list[Path]:
    if os.path.lexists(name):  # a name with a [ in it is that first
        return [Path(name)]
    paths = [Path(path) for path in sorted(glob.glob(name, recursive=True))]
    if not paths:
        raise UserError(f"{printable(name)}: no such file or folder" + (" matches" if glob.has_magic(name) else ""))
    return paths


def _videos_of(path: Path) -> Iterator[FoundVideo]:
    if not path.is_dir():
        yield FoundVideo(path)
        return
    videos = []
    for folder, files in visible_folders(path):
        videos += [FoundVideo(path / folder / file) for file in files if Path(file).suffix.lower() in ACCEPTED_FORMATS]
        templates = [template for template in COMMON_TEMPLATES if template.format(1) in files]
        videos += [FoundVideo(path / folder, template) for template in templates[:1]]
    yield from sorted(videos, key=lambda video: video.path)
