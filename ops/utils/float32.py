"""Convolutions in full float32 on a GPU."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def float32_convolutions() -> Iterator[None]:
    """Keep convolutions on a GPU from TF32, whose rounding, other for every batch size, could move a video's exit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
