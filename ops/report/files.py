"""Files that other programs read, each there whole or not at all. All raise UserError where they cannot be written."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """The rows, of which the first has the names of the columns."""
    with whole_file(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        csv.writer(text, lineterminator="\n").writerows(map(no_formula, row) for row in rows)


def no_formula(cell: Any) -> Any:
    """A cell of a table, with a ' before what a spreadsheet would compute: names may begin as formulas do."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(("=", "+", "-", "@")) else cell


def write_json(path: Path, content: Any) -> None:
    """The content as indented JSON."""
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
