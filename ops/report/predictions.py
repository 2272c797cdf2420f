"""The predictions of an evaluation as a file that other programs read."""

from pathlib import Path

import numpy as np
from torch import Tensor

from ops.data.dataset import VideoDataset
from ops.utils.errors import UserError
from ops.utils.files import whole_file


def save_predictions(path: Path, dataset: VideoDataset, logits: Tensor) -> None:
    """`video` [N] (names as in the split file, in its order), `logits` [N, C], `labels` [N, 3], in one .npz file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    with whole_file(path) as file:
        np.savez(file, video=dataset.video_names(), logits=logits.numpy(), labels=dataset.labels.numpy())
