"""Pictures and clips of what the network looked at, for the videos of a batch: one file of each kind per video."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from models.uni_adafocus import UniAdaFocus
from ops.early_exit.inference import Answer
from ops.predict.batches import READING_ERRORS, BrokenVideos, VideoBatch, reason
from ops.report.clips import draw_inspection, save_inspection_video
from ops.report.inspection import Inspection, inspect_videos
from ops.utils.errors import UserError

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
        for folder in filter(None, (images, clips)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from None

    def __call__(
        self, model: UniAdaFocus, batch: VideoBatch, paths: Sequence[Path], answer: Answer
    ) -> list[tuple[dict[str, Path], str]]:
        """For each video the files written, by kind ("image", "clip"), and why one could not be made, or "".

        model: the one that gave the answer. Raises UserError where a file cannot be written.
        """
        try:
            inspections = inspect_videos(model, batch, answer.patches)
        except BrokenVideos as broken:  # rounding may lead to another frame than in the first run
            return [({}, f"no picture: {next(iter(broken.reasons.values()))}")] * len(paths)
        written = []
        for row, inspection in enumerate(inspections):
            name, files, problem = self.names[paths[row]], {}, ""
            if self.images:
                files["image"] = self.images / f"{name}.png"
                self._draw(files["image"], batch, row, inspection, paths[row].name)
            if self.clips:
                try:
                    self._film(self.clips / f"{name}.mp4", batch, row, inspection)
                    files["clip"] = self.clips / f"{name}.mp4"
                except READING_ERRORS as error:
                    problem = f"no clip: {reason(error)}"
            written.append((files, problem))
        return written

    def _draw(self, path: Path, batch: VideoBatch, row: int, inspection: Inspection, title: str) -> None:
        rate = batch.videos[row].rate
        times = None if rate is None else (batch.frame_numbers(row) - 1) / rate
        draw_inspection(path, inspection, title=title, class_names=self.class_names, times=times)

    def _film(self, path: Path, batch: VideoBatch, row: int, inspection: Inspection) -> None:
        video = batch.videos[row]
        frames = video.read(range(1, len(video) + 1))
        rate = video.rate or PLAYED_RATE
        save_inspection_video(path, frames, len(video), rate, inspection, class_names=self.class_names)


def file_names(videos: Sequence[Path]) -> dict[Path, str]:
    """A plain name for the files about each video, without an ending: its path from the folder common to all."""
    common = os.path.commonpath([os.path.abspath(video.parent) for video in videos]) if videos else ""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for video in videos:
        path = os.path.splitext(os.path.relpath(os.path.abspath(video), common))[0]
        plain = re.sub(r"[^\w.-]+", "_", path).strip("._")[-_LONGEST_NAME:] or "video"
        name, number = plain, 1
        while name.lower() in taken:  # some file systems do not tell A from a
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.lower())
        names[video] = name
    return names
