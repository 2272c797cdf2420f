"""Pictures and clips of what the network looked at: one file of each kind per video."""

import os
import re
import sys
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from ops.predict.batches import READING_ERRORS, SegmentReader, reason
from ops.report.clips import save_inspection_video
from ops.report.inspection import Inspection
from ops.report.inspection_figure import inspection_figure
from ops.report.style import save_png
from ops.utils.errors import UserError
from ops.utils.files import has_utf8_name
from ops.video.clip_writer import NOT_FOR_BROWSERS, makes_h264

PLAYED_RATE = 25.0  # frames per second of a clip, where the video is a folder of frames
_LONGEST_NAME = 100  # characters


class Illustrator:
    """Writes pictures to the folder `images` and clips to the folder `clips`, which are made; None: none of these.

    videos: all that may come. Raises UserError for a folder that cannot be made.
    """

    def __init__(
        self, class_names: Sequence[str], videos: Sequence[Path], images: Path | None, clips: Path | None
    ) -> None:
        self.class_names, self.images, self.clips = class_names, images, clips
        self.names = file_names(videos)
        if clips and not has_utf8_name(os.path.abspath(clips)):
            raise UserError(f"{clips}: its full name has bytes that are not UTF-8; choose another folder for clips")
        if clips and not makes_h264():
            print(f"warning: {NOT_FOR_BROWSERS}", file=sys.stderr)
        for folder in filter(None, (images, clips)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None

    def __call__(self, path: Path, reader: SegmentReader, inspection: Inspection) -> tuple[dict[str, Path], str]:
        """Returns the files written, by kind ("image", "clip"), and why one could not be made, or "".

        Raises UserError where a file cannot be written.
        """
        video, name, files, problem = reader.video, self.names[path], {}, ""
        if self.images:
            files["image"] = self.images / f"{name}.png"
            times = None if video.rate is None else (reader.numbers - 1) / video.rate
            figure = inspection_figure(inspection, title=path.name, class_names=self.class_names, times=times)
            save_png(files["image"], figure)
        if self.clips:
            clip, rate = self.clips / f"{name}.mp4", video.rate or PLAYED_RATE
            frames = video.read(range(1, len(video) + 1))
            try:
                save_inspection_video(clip, frames, len(video), rate, inspection, self.class_names)
                files["clip"] = clip
            except READING_ERRORS as error:
                problem = f"no clip: {reason(error)}"
        return files, problem


def file_names(videos: Sequence[Path]) -> dict[Path, str]:
    """A plain name for the files about each video, without an ending: its path from the folder common to all."""
    common = os.path.commonpath([os.path.abspath(video.parent) for video in videos]) if videos else ""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for video in videos:
        path = os.path.splitext(os.path.relpath(os.path.abspath(video), common))[0]
        plain = re.sub(r"[^\w.-]+", "_", path).strip("._")[-_LONGEST_NAME:] or "video"
        candidates = chain([plain], (f"{plain}_{number}" for number in count(2)))
        names[video] = next(name for name in candidates if name.lower() not in taken)
        taken.add(names[video].lower())  # some file systems do not tell A from a
    return names
