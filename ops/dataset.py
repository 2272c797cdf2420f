"""The published place to import the dataset from; it lives in `ops.data.dataset`."""

from ops.data.dataset import VideoDataset, collate_clips, worker_init

__all__ = ["VideoDataset", "collate_clips", "worker_init"]
