"""ops/predict/batches.py: videos as the network asks for them, with evaluation's frames and preprocessing."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from dataset_config import get_dataset
from ops.data.dataset import VideoDataset
from ops.predict.batches import SegmentReader, VideoBatch, reason
from ops.video.errors import VideoError
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings
from ops.video.frames import FrameFolder, VideoFile
from tests.videos import make_colourful_video

MODEL = SimpleNamespace(num_segments=6, input_size=64)  # as much of one as a batch needs
ALL = torch.arange(6)
SETTINGS = FrameSettings(height=80)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def batch_of(videos, threads) -> VideoBatch:
    return VideoBatch([SegmentReader(video, MODEL) for video in videos], threads)


def clip(video, threads) -> torch.Tensor:
    return batch_of([video], threads).fetch(torch.tensor([0]), ALL[None])


@pytest.mark.parametrize("frames", [20, 4, 1])
def test_a_folder_of_frames_gives_the_clip_that_evaluation_sees(tmp_path, threads, frames):
    make_colourful_video(tmp_path / "videos" / "a.mp4", 1, frames)
    settings = FrameSettings(height=80, jpeg_quality=100, backend="opencv")
    extract_videos(tmp_path / "videos", tmp_path / "frames", settings)
    (tmp_path / "classInd.txt").write_text("one\n")
    for split in ("train", "val"):
        (tmp_path / f"{split}_split.txt").write_text(f"a,{max(frames, 3)},0\n")
    dataset = VideoDataset(get_dataset("own", tmp_path), "val", 6, 64, training=False)
    folder = FrameFolder(tmp_path / "frames" / "a", "image_{:05d}.jpg")
    if frames >= 3:  # shorter ones stand in no dataset
        assert torch.equal(clip(folder, threads), dataset[0][0])
    of_file = clip(VideoFile(tmp_path / "videos" / "a.mp4", settings), threads)
    difference = (clip(folder, threads).int() - of_file.int()).abs().float()
    assert of_file.shape == (6, 3, 64, 64) and of_file.is_contiguous(memory_format=torch.channels_last)
    assert difference.mean() < 2 and len(folder) == frames  # that is JPEG


def test_any_frames_of_any_videos_come_in_the_order_asked_for(tmp_path, threads):
    videos = [VideoFile(make_colourful_video(tmp_path / f"{seed}.mp4", seed), SETTINGS) for seed in range(3)]
    whole = torch.stack([clip(video, threads) for video in videos])  # [3, 6, 3, 64, 64]
    batch = batch_of(videos, threads)
    assert len(batch) == 3
    first = batch.fetch(torch.tensor([2, 0]), torch.tensor([[1, 4], [0, 5]]))
    assert torch.equal(first, torch.stack([whole[2, 1], whole[2, 4], whole[0, 0], whole[0, 5]]))
    again = batch.fetch(torch.tensor([2, 1]), torch.tensor([[4, 2], [5, 3]]))  # out of order, one known already
    assert torch.equal(again, torch.stack([whole[2, 4], whole[2, 2], whole[1, 5], whole[1, 3]]))


def test_no_frame_is_read_twice(tmp_path, threads):
    video, asked = VideoFile(make_colourful_video(tmp_path / "a.mp4", 0, frames=60)), []
    original = video.read
    video.read = lambda numbers: asked.extend(numbers) or original(numbers)
    reader = SegmentReader(video, MODEL)
    batch = VideoBatch([reader], threads)
    for segments in ([0, 2, 4], [1, 2, 3], [0, 1, 2]):
        batch.fetch(torch.tensor([0]), torch.tensor([segments]))
    assert asked == sorted(set(asked)) and set(asked) >= set(reader.numbers[:5])  # 1 and 3 are on the way to 4


class Broken:
    """A video whose frames cannot be read."""

    rate, replaced = None, 0

    def __len__(self):
        return 10

    def read(self, numbers):
        raise VideoError("torn")

    def decoded_with(self, numbers, among):
        return set(numbers)


def test_broken_videos_are_named_and_black_and_the_rest_of_the_batch_goes_on(tmp_path, threads):
    good = [VideoFile(make_colourful_video(tmp_path / f"{seed}.mp4", seed)) for seed in range(2)]
    batch = batch_of([good[0], Broken(), Broken(), good[1]], threads)
    frames = batch.fetch(torch.arange(4), ALL.expand(4, -1)).unflatten(0, (4, -1))
    assert batch.broken == {1: "torn", 2: "torn"}
    assert frames[1:3].max() == 0
    for video, found in zip(good, frames[[0, 3]], strict=True):
        assert torch.equal(found, clip(video, threads))


def test_reasons_are_a_few_words():
    assert reason(VideoError("cut short")) == "cut short"
    assert reason(PermissionError(13, "Permission denied", "a.mp4")) == "Permission denied"
