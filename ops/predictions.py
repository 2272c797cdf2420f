"""The predictions of an evaluation as a file that other programs read."""

import os
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from ops.dataset import VideoDataset
from ops.errors import UserError


def save_predictions(path: Path, dataset: VideoDataset, logits: Tensor) -> None:
    """`video` [N] (names as in the split file, in its order), `logits` [N, C], `labels` [N, 3], in one .npz file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, video=dataset.video_names(), logits=logits.numpy(), labels=dataset.labels.numpy())
            os.replace(beside, path)
        except OSError:
            os.unlink(beside)
            raise
    except OSError as error:
        raise UserError(f"cannot write predictions to {path}: {error.strerror or error}") from error
