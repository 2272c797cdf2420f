"""Clips from frame folders: what an item holds, what it depends on, and what happens to bad frames."""

import io
import os
import shutil
import signal
import struct
import time
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dataset_config import DatasetConfig
from ops.data.dataset import VideoDataset, collate_clips, worker_init
from ops.data.images import BadFrame, read_array, read_image
from ops.data.loaders import EvaluationBatches, open_loader
from ops.utils.errors import UserError, original_message

SEGMENTS, SIZE, FRAMES = 6, 64, 12
EVALUATED = [2, 4, 6, 8, 10, 12]  # the frames that evaluation takes from a video of 12


def frame_path(config: DatasetConfig, video: str, number: int) -> Path:
    return config.frames_root / video / config.template.format(number)


def texture(seed: int, width: int = 80, height: int = 60) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def write_dataset(folder: Path, rows: str, draw) -> DatasetConfig:
    """Both splits hold `rows`; frame n of a video is `draw(n)`."""
    config = DatasetConfig(
        name="test", classes=tuple("abcd"), train_split=folder / "train.txt", val_split=folder / "val.txt",
        frames_root=folder / "frames", template="image_{:05d}.jpg", separator=",", metric="map",
    )  # fmt: skip
    config.train_split.write_text(rows)
    config.val_split.write_text(rows)
    for video in dict.fromkeys(row.split(",")[0] for row in rows.split()):
        (config.frames_root / video).mkdir(parents=True)
        for number in range(1, FRAMES + 1):
            draw(number).save(frame_path(config, video, number), quality=90)
    return config


@pytest.fixture
def config(tmp_path) -> DatasetConfig:
    """Three videos of textured frames."""
    rows = f"a,{FRAMES},0\nb,{FRAMES},1,2\nc,{FRAMES},3,0,1\n"
    return write_dataset(tmp_path, rows, texture)


@pytest.fixture
def numbered(tmp_path) -> DatasetConfig:
    """Two videos whose frame n has grey level 10 n all over, which no crop or resize changes."""
    return write_dataset(
        tmp_path, f"a,{FRAMES},0\nb,{FRAMES},1\n", lambda number: Image.new("RGB", (80, 60), (10 * number,) * 3)
    )


def dataset(config: DatasetConfig, training: bool = False, **options) -> VideoDataset:
    return VideoDataset(config, "train", SEGMENTS, SIZE, training, **options)


def shown(clip: torch.Tensor) -> list[int]:
    """Which frames a clip of the numbered videos shows."""
    levels = clip.float().mean(dim=(1, 2, 3)) / 10
    assert (levels - levels.round()).abs().max() < 0.2
    return levels.round().int().tolist()


@pytest.mark.parametrize("training", [False, True])
def test_an_item_is_a_clip_its_labels_and_its_index(config, training):
    data = dataset(config, training)
    assert len(data) == 3
    frames, labels, index = data[1]
    assert (frames.shape, frames.dtype) == ((SEGMENTS, 3, SIZE, SIZE), torch.uint8)
    assert frames.permute(0, 2, 3, 1).is_contiguous()
    assert (sorted(labels.tolist()), labels.dtype) == ([-1, 1, 2], torch.int64)
    assert index == 1 and type(index) is int
    with pytest.raises(IndexError):
        data[3]


def test_all_names_and_labels_are_there_without_reading_a_frame(config):
    shutil.rmtree(config.frames_root)
    data = dataset(config)
    assert data.video_names() == ["a", "b", "c"] and data.video_name(2) == "c"
    assert data.labels.tolist() == [[0, -1, -1], [1, 2, -1], [0, 1, 3]]


def test_evaluation_shows_the_middle_of_each_segment(numbered):
    assert shown(dataset(numbered)[0][0]) == EVALUATED


def test_training_shows_one_frame_of_each_segment_drawn_anew_each_epoch(numbered):
    data = dataset(numbered, training=True)
    seen = []
    for epoch in range(12):
        data.set_epoch(epoch)
        seen.append(shown(data[0][0]))
    for segment, numbers in enumerate(zip(*seen, strict=True)):
        assert set(numbers) == {2 * segment + 1, 2 * segment + 2}


@pytest.mark.parametrize("training", [False, True])
def test_the_fast_backend_is_within_one_grey_level_of_pillow(config, training):
    fast, exact = (dataset(config, training, backend=backend) for backend in ("fast", "pillow"))
    for index in range(3):
        difference = fast[index][0].int() - exact[index][0].int()
        assert difference.abs().max() <= 1
        assert torch.equal(fast[index][1], exact[index][1])


def test_an_item_depends_on_seed_epoch_and_index_alone(config):
    first = dataset(config, training=True, seed=3)
    again = dataset(config, training=True, seed=3)
    items = [again[index][0] for index in (2, 0, 1)]
    np.random.seed(1)
    torch.manual_seed(1)
    for index, frames in zip((2, 0, 1), items, strict=True):
        assert torch.equal(first[index][0], frames)
    assert not torch.equal(dataset(config, training=True, seed=4)[0][0], first[0][0])
    assert not torch.equal(first[1][0], first[0][0])  # whose folders hold the same frames
    again.set_epoch(1)
    assert not torch.equal(again[0][0], first[0][0])
    again.set_epoch(0)
    assert torch.equal(again[0][0], first[0][0])


def test_in_training_the_first_label_is_drawn_anew_each_epoch(config):
    data = dataset(config, training=True)
    firsts = set()
    for epoch in range(12):
        data.set_epoch(epoch)
        firsts.add(data[1][1][0].item())
    assert firsts == {1, 2}


def test_in_evaluation_labels_stay_in_order(config):
    data = dataset(config)
    for epoch in range(5):
        data.set_epoch(epoch)
        assert data[2][1].tolist() == [0, 1, 3]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_segments_loaded_apart_have_the_same_pixels(config, training, backend):
    data = dataset(config, training, backend=backend)
    whole = data[1][0]
    for segments in ([0], [3, 1], [5, 5, 2], np.arange(SEGMENTS), torch.tensor([4])):
        assert torch.equal(data.load_segments(1, segments), whole[torch.as_tensor(segments)])


def test_a_video_shorter_than_its_segments_shows_frames_again(numbered):
    numbered.train_split.write_text("a,3,0\n")
    assert shown(dataset(numbered)[0][0]) == [1, 1, 2, 2, 3, 3]


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "cut in the header": lambda path: path.write_bytes(path.read_bytes()[:30]),
    "zero-padded after a cut": lambda path: path.write_bytes(path.read_bytes()[:-40] + bytes(40)),
    "no image": lambda path: path.write_bytes(b"<html>not found</html>"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a truncated PNG": lambda path: (texture(0).save(path, "PNG"), path.write_bytes(path.read_bytes()[:-200])),
    "a bomb": lambda path: path.write_bytes(with_size(path.read_bytes(), 20_000, 20_000)),
    "a thin bomb": lambda path: path.write_bytes(with_size(path.read_bytes(), 60_000, 2)),
    "a PNG bomb": lambda path: path.write_bytes(png_bomb()),
}


@cache
def png_bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "PNG")
    return file.getvalue()


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """The same file, its header claiming another size."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_a_bad_frame_is_replaced_by_the_nearest_good_one_and_counted(numbered, damage, backend):
    data = dataset(numbered, backend=backend)
    for number in (5, 6):
        DAMAGE[damage](frame_path(numbered, "b", number))
    assert shown(data[0][0]) == EVALUATED
    assert data.replaced_frames.tolist() == [0, 0]
    assert shown(data[1][0]) == [2, 4, 7, 8, 10, 12]
    assert data.replaced_frames.tolist() == [0, 1]
    data.reset_replaced()
    assert data.replaced_frames.tolist() == [0, 0]


def test_of_two_equally_near_frames_the_earlier_replaces(numbered):
    frame_path(numbered, "a", 6).unlink()
    data = dataset(numbered)
    assert shown(data[0][0]) == [2, 4, 5, 8, 10, 12]
    assert shown(data.load_segments(0, [2])) == [5]
    assert data.replaced_frames.tolist() == [2, 0]


def test_a_folder_with_one_good_frame_shows_it_everywhere(numbered):
    for number in range(1, FRAMES + 1):
        if number != 7:
            frame_path(numbered, "a", number).write_bytes(b"")
    data = dataset(numbered)
    assert shown(data[0][0]) == [7] * SEGMENTS
    assert data.replaced_frames.tolist() == [SEGMENTS, 0]


def test_frames_that_the_split_file_promises_beyond_the_last_are_replaced(numbered):
    numbered.train_split.write_text("a,24,0\n")
    data = dataset(numbered)
    assert shown(data[0][0]) == [3, 7, 11, 12, 12, 12]
    assert data.replaced_frames.tolist() == [3]


@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_a_video_without_a_good_frame_is_an_error_that_names_it(numbered, backend):
    for path in (numbered.frames_root / "b").iterdir():
        path.write_bytes(b"")
    data = dataset(numbered, backend=backend)
    with pytest.raises(UserError, match="video 'b' has no readable frame image_00001") as raised:
        data[1]
    assert str(numbered.frames_root / "b") in str(raised.value) and "train.txt:2" in str(raised.value)
    shutil.rmtree(numbered.frames_root / "b")
    with pytest.raises(UserError, match="video 'b' has no folder of frames"):
        data[1]
    assert shown(data[0][0]) == EVALUATED


def write_16_bit_png(path: Path, image: Image.Image) -> None:
    pixels = np.asarray(image).astype(np.uint16) * 256 + 77
    path.write_bytes(cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes())


KINDS = {
    "colour JPEG": (lambda path: texture(0).save(path, "JPEG", quality=95, subsampling=0), "RGB", 12),
    "progressive JPEG": (lambda path: texture(0).save(path, "JPEG", quality=95, progressive=True), "RGB", 30),
    "grey JPEG": (lambda path: texture(0).convert("L").save(path, "JPEG", quality=95), "L", 8),
    "CMYK JPEG": (lambda path: texture(0).convert("CMYK").save(path, "JPEG", quality=95), "RGB", 40),
    "RGBA PNG": (lambda path: texture(0).convert("RGBA").save(path, "PNG"), "RGB", 0),
    "16-bit PNG": (lambda path: write_16_bit_png(path, texture(0)), "RGB", 0),
    "16-bit grey PNG": (lambda path: write_16_bit_png(path, texture(0).convert("L")), "L", 0),
    "JPEG with bytes after its end": (
        lambda path: (texture(0).save(path, "JPEG", quality=95), path.write_bytes(path.read_bytes() + bytes(99))),
        "RGB",
        30,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_decodes_to_its_colours_whichever_the_decoder(tmp_path, kind):
    write, mode, tolerance = KINDS[kind]
    path = tmp_path / "image_00001.jpg"
    write(path)
    expected = np.asarray(texture(0).convert(mode).convert("RGB")).astype(int)
    array, image = read_array(path), np.asarray(read_image(path))
    assert (array.dtype, array.shape) == (np.uint8, (60, 80, 3))
    assert np.abs(array - expected).max() <= tolerance
    assert np.abs(array.astype(int) - image).max() <= 1


def test_an_orientation_tag_turns_nothing(tmp_path):
    path = tmp_path / "frame.jpg"
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    texture(0).save(path, "JPEG", exif=exif)
    tagged = read_array(path)
    assert np.abs(tagged.astype(int) - np.asarray(read_image(path))).max() <= 1
    texture(0).save(path, "JPEG")
    assert (tagged == read_array(path)).all()


def test_a_thumbnail_does_not_pass_for_the_end_of_a_truncated_file(tmp_path):
    path = tmp_path / "frame.jpg"
    texture(0).save(path, "JPEG", comment=b"\xff\xd8 thumbnail \xff\xd9")
    read_array(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadFrame):
        read_array(path)


def test_a_batch_is_a_channels_last_stack(config):
    data = dataset(config)
    frames, labels, index = collate_clips([data[2], data[0]])
    assert frames.shape == (2, SEGMENTS, 3, SIZE, SIZE) and frames.permute(0, 1, 3, 4, 2).is_contiguous()
    assert torch.equal(frames[0], data[2][0]) and torch.equal(frames[1], data[0][0])
    assert labels.tolist() == [[0, 1, 3], [0, -1, -1]]
    assert (index.tolist(), index.dtype) == ([2, 0], torch.int64)


def loader(data: VideoDataset, workers: int = 2) -> DataLoader:
    return DataLoader(
        data, 1, num_workers=workers, collate_fn=collate_clips, worker_init_fn=worker_init, persistent_workers=True
    )


def test_workers_follow_the_epoch_and_report_replaced_frames(config):
    alone, data = dataset(config, training=True), dataset(config, training=True)
    frame_path(config, "c", 1).unlink()
    frame_path(config, "c", 2).unlink()
    batches = loader(data)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        data.set_epoch(epoch)
        for frames, labels, index in batches:
            expected = alone[index.item()]
            assert torch.equal(frames[0], expected[0]) and torch.equal(labels[0], expected[1])
            assert frames.is_shared() and frames.permute(0, 1, 3, 4, 2).is_contiguous()
        assert data.replaced_frames.nonzero().tolist() == [[2]]
    assert data.replaced_frames.tolist() == [0, 0, 2]


def test_an_error_in_a_worker_reaches_the_user_as_its_one_line(config):
    shutil.rmtree(config.frames_root / "b")
    data = dataset(config)
    with pytest.raises(UserError) as here:
        data[1]
    batches = iter(loader(data, workers=1))
    with pytest.raises(UserError) as from_worker:
        list(batches)
    batches._shutdown_workers()  # left to the garbage collector, it takes five seconds
    assert "Traceback" in str(from_worker.value)
    assert original_message(from_worker.value) == original_message(here.value) == str(here.value)


@pytest.mark.parametrize(
    "options",
    [{"split": "test"}, {"backend": "opencv"}, {"num_segments": 0}, {"input_size": 0}, {"seed": -1}],
)
def test_an_option_that_makes_no_sense_is_refused(config, options):
    defaults = {"split": "val", "num_segments": SEGMENTS, "input_size": SIZE, "training": False}
    with pytest.raises(UserError, match=next(iter(options))):
        VideoDataset(config, **{**defaults, **options})


def test_workers_leave_the_first_signal_to_the_main_process(config):
    data, cpu = dataset(config), torch.device("cpu")
    with open_loader(data, EvaluationBatches(len(data), 1), 2, cpu) as loader:
        loader.prefetch_factor = 1
        batches = iter(loader)
        for _ in batches._workers:  # one of each, so that all have started
            next(batches)
        for worker, number in zip(batches._workers, (signal.SIGTERM, signal.SIGHUP), strict=True):
            os.kill(worker.pid, number)
        assert len(list(batches)) == len(data) - 2
    # They end with the block, which need not end the iterator, and though the second signal may seem the first again.
    assert not any(worker.is_alive() for worker in batches._workers)

    with open_loader(data, EvaluationBatches(len(data), 1), 2, cpu) as loader:
        batches = iter(loader)
        next(batches)
        with pytest.raises(RuntimeError, match="is killed by signal: Terminated"):
            for _ in range(200):  # the second one that it has time for
                os.kill(batches._workers[0].pid, signal.SIGTERM)
                time.sleep(0.05)
