"""ops/data/sources.py: the frames asked for, decoded once and no others."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dataset_config import get_dataset
from ops.data.dataset import VideoDataset
from ops.data.sources import ClipFrames, FolderFrames
from ops.utils.errors import UserError

VIDEOS = torch.tensor([2, 0])
SEGMENTS = torch.tensor([[1, 5, 3, 0, 2], [4, 1, 0, 5, 3]])


@pytest.fixture
def dataset(dataset_folder) -> VideoDataset:
    return VideoDataset(get_dataset("mine", dataset_folder), "val", num_segments=6, input_size=64, training=False)


def test_clips_in_memory_give_the_frames_of_each_video_in_the_order_asked_for():
    clips = torch.randint(0, 256, (3, 6, 3, 8, 8), dtype=torch.uint8)
    frames = ClipFrames(clips).fetch(VIDEOS, SEGMENTS)
    assert torch.equal(frames.unflatten(0, (2, 5)), clips[VIDEOS[:, None], SEGMENTS])


def test_folders_give_the_pixels_of_the_dataset(dataset):
    indices = [4, 1, 3]
    with ThreadPoolExecutor(2) as threads:
        source = FolderFrames(dataset, indices, threads)
        assert len(source) == 3
        frames = source.fetch(VIDEOS, SEGMENTS)
        assert source.seconds > 0
    clips = torch.stack([dataset[index][0] for index in indices])
    assert torch.equal(frames.unflatten(0, (2, 5)), clips[VIDEOS[:, None], SEGMENTS])


def test_no_frame_is_decoded_that_was_not_asked_for_and_none_twice(dataset, monkeypatch):
    decoded = []
    load_segments = VideoDataset.load_segments

    def remember(self, index, segments):
        decoded.extend((index, segment) for segment in segments)
        return load_segments(self, index, segments)

    monkeypatch.setattr(VideoDataset, "load_segments", remember)
    clip = dataset[4][0]
    with ThreadPoolExecutor(1) as threads:
        source = FolderFrames(dataset, [4], threads)
        only = torch.tensor([0])
        source.fetch(only, torch.tensor([[1, 3]]))
        assert torch.equal(source.fetch(only, torch.tensor([[2, 3]])), clip[[2, 3]])
        source.fetch(only, torch.tensor([[1]]))
    assert decoded == [(4, 1), (4, 3), (4, 2)]


def test_a_video_without_a_readable_frame_is_an_error_by_name(dataset, dataset_folder):
    for frame in (dataset_folder / "frames" / "val1").iterdir():
        frame.write_bytes(b"not a picture")
    with ThreadPoolExecutor(2) as threads, pytest.raises(UserError, match="val1"):
        FolderFrames(dataset, [0, 1], threads).fetch(torch.tensor([0, 1]), torch.tensor([[1], [1]]))
