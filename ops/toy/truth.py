"""When and where the badge of a toy video is, in the segments and pixels that the network gets in evaluation."""

import json
import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ops.data import transforms
from ops.data.dataset import VideoDataset
from ops.toy.dataset import TRUTH_FILE
from ops.utils.errors import UserError


class ToyTruth:
    """The truth on a split of the toy dataset. Raises UserError where truth.json is absent, damaged or of other videos.

    dataset: without the random frames and crops of training.
    """

    def __init__(self, dataset: VideoDataset) -> None:
        path = dataset.config.val_split.parent / TRUTH_FILE
        self.dataset = dataset
        try:
            truth = json.loads(path.read_bytes())
            self.videos = [truth[name] for name in dataset.video_names()]
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; only toy data know what decides") from error
        except (KeyError, ValueError) as error:
            problem = f"does not know video {error}" if isinstance(error, KeyError) else f"is damaged ({error})"
            raise UserError(f"{path} {problem}; make the toy dataset again with --remake") from error

    def in_span(self, video: int) -> Tensor:
        """Which of the T segments of a video show a frame between the badge's first and last: bool [T]."""
        first, last = self.videos[video]["first_frame"], self.videos[video]["last_frame"]
        numbers = self._frame_numbers(video)
        return torch.from_numpy((first <= numbers) & (numbers <= last))

    def boxes(self, video: int) -> Tensor:
        """The badge in each segment's square, as far as it lies inside: float32 [T, 4], left, top, right, bottom in
        pixels; zeros where there is none."""
        dataset, boxes = self.dataset, self.videos[video]["boxes"]
        folder = dataset.config.video_folder(dataset.video_name(video))
        with Image.open(os.path.join(folder, dataset.config.template.format(1))) as frame:
            width, height = frame.size
        rows = [
            box_in_square(boxes[str(number)], width, height, dataset.input_size) if str(number) in boxes else [0.0] * 4
            for number in self._frame_numbers(video)
        ]
        return torch.tensor(rows)

    def _frame_numbers(self, video: int) -> np.ndarray:
        frames = int(self.dataset.annotations.frames[video])
        return transforms.evaluation_frames(num_frames=frames, num_segments=self.dataset.num_segments)


def box_in_square(box: Sequence[float], width: int, height: int, input_size: int) -> list[float]:
    """Where a box of a width x height frame lies in the square that evaluation makes of it, cut off at its edges.

    Both as left, top, right, bottom in pixels; zeros for a box that is cut off altogether.
    """
    view = transforms.evaluation_view(width, height, input_size=input_size)
    scale = view.size[0] / width, view.size[1] / height
    placed = [min(max(edge * scale[i % 2] - view.corner[i % 2], 0.0), float(input_size)) for i, edge in enumerate(box)]
    return placed if placed[0] < placed[2] and placed[1] < placed[3] else [0.0] * 4
