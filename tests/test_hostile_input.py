"""Files from strangers: every one is read, replaced or refused in one line; nothing crashes or reads elsewhere."""

import contextlib
import io
import os
import struct
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset_config import get_dataset, read_classes
from ops import checkpoint
from ops.data.annotations import read_annotations
from ops.data.dataset import VideoDataset
from ops.data.images import BadFrame, read_array, read_image
from ops.utils.errors import UserError

ROWS = st.lists(st.tuples(st.text(max_size=8), st.integers(-5, 2**70), st.integers(-5, 8)), max_size=5)
QUICK = settings(max_examples=200, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"../outside,8,0\n", "split.txt:1: "),
        (b"a/../../outside,8,0\n", "split.txt:1: "),
        (b"/etc,8,0\n", "split.txt:1: "),
        (b"a,8,0\nb,8,-1\n", "split.txt:2: "),
        (b"a,-8,0\n", "split.txt:1: "),
        (b"a,8,99999999999999999999999\n", "split.txt:1: "),
        (b"a,99999999999999999999999,0\n", "split.txt:1: "),
        (b"a,8,0\n" + b"x" * 10_000_000 + b",8,0\n", "split.txt:2: "),
        (b"a,8,0\nb\xff\xfe,8,0\n", "split.txt:2: "),
        (b"a,8,0,1,2,3\n", "split.txt:1: "),
        (b"", "split.txt"),
        (b"\n\n", "split.txt"),
    ],
)
def test_hostile_split_files_are_refused_by_file_and_line(content, message, tmp_path):
    path = tmp_path / "split.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_annotations(path, ",", 4)
    assert message in _one_line(error) and len(str(error.value)) < 1000


def test_untidy_split_files_are_read(tmp_path):
    path = tmp_path / "split.txt"
    path.write_bytes(b"\xef\xbb\xbfa,8,0\r\n\r\n  \r\nb,9,1,2\r\na,8,0\r\n")
    annotations = read_annotations(path, ",", 4)
    assert annotations.names() == ["a", "b", "a"]
    assert annotations.frames.tolist() == [8, 9, 8]
    assert annotations.labels.tolist() == [[0, -1, -1], [1, 2, -1], [0, -1, -1]]
    assert any("a" in warning for warning in annotations.warnings)  # listed twice


@pytest.mark.parametrize("content", ["a\n\nb\n", "a\nb\na\n", ""])
def test_class_files_with_blank_repeated_or_no_names_are_refused(content, tmp_path):
    path = tmp_path / "classInd.txt"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_classes(path)
    assert "classInd.txt" in _one_line(error)


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_as_a_split_file_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("split") / "split.txt"
    path.write_bytes(content)
    for separator in (",", " "):
        try:
            annotations = read_annotations(path, separator, 4)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert (annotations.labels < 4).all() and (annotations.frames >= 3).all()
            assert not any(".." in name.split("/") or name.startswith("/") for name in annotations.names())


@QUICK
@given(
    st.lists(st.tuples(st.text(max_size=8), st.integers(-5, 2**70), st.integers(-5, 8)), max_size=5),
    st.sampled_from(", "),
)
def test_rows_that_look_right_are_read_or_refused(tmp_path_factory, rows, separator):
    path = tmp_path_factory.mktemp("split") / "split.txt"
    path.write_text("\n".join(separator.join(map(str, row)) for row in rows), encoding="utf-8", errors="replace")
    try:
        assert (read_annotations(path, separator, 4).labels < 4).all()
    except UserError as error:
        assert "\n" not in str(error)


def _jpeg(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 128 if mode == "L" else (90, 120, 60, 0)[: len(mode)]).save(buffer, "JPEG")
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that announces any size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def _long_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (100_000, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def _png16() -> bytes:
    return cv2.imencode(".png", np.full((30, 40, 3), 30000, np.uint16))[1].tobytes()


@pytest.mark.parametrize("read", [read_array, read_image])
@pytest.mark.parametrize("content", [_jpeg("L"), _jpeg("CMYK"), _jpeg("RGB"), _png16()])
def test_unusual_pictures_become_rgb_bytes(read, content, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    pixels = np.asarray(read(str(path)))
    assert pixels.shape == (30, 40, 3) and pixels.dtype == np.uint8


def _announcing(side: int) -> bytes:
    """A small JPEG whose header speaks of a square of that side."""
    content = bytearray(_jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(content)


@pytest.mark.parametrize("read", [read_array, read_image])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no picture"),
        _announcing(30_000),
        _jpeg()[: len(_jpeg()) // 2],
        _jpeg(size=(60_000, 1)),
        _long_png(),
        _png_header(60_000, 60_000),
    ],
    ids=["empty", "text", "large JPEG", "half", "long JPEG", "long PNG", "bomb"],
)
def test_damaged_and_monstrous_pictures_are_bad_frames(read, content, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    with pytest.raises(BadFrame):
        read(str(path))


@QUICK
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.booleans())
def test_damaged_jpegs_decode_or_are_bad_frames(tmp_path_factory, place, damage, cut):
    whole = bytearray(_jpeg())
    place %= len(whole)
    whole[place : place + len(damage)] = damage
    path = tmp_path_factory.mktemp("jpeg") / "image.jpg"
    path.write_bytes(whole[:place] if cut else whole)
    for read in (read_array, read_image):
        with contextlib.suppress(BadFrame):
            assert np.asarray(read(str(path))).dtype == np.uint8


def test_a_video_with_all_kinds_of_frames_still_gives_a_clip(make_dataset):
    folder = make_dataset({"a": [0]}, {"b": [1]})
    frames = sorted((folder / "frames" / "b").iterdir())
    for path, content in zip(frames, (_jpeg("L"), b"", _jpeg("CMYK"), _jpeg()[:300], _png16()), strict=False):
        path.write_bytes(content)
    data = VideoDataset(get_dataset("mine", folder), "val", 8, 64, training=False)
    assert data[0][0].shape == (8, 3, 64, 64)
    assert data.replaced_frames.tolist() == [2]


@pytest.mark.parametrize("backend", ["fast", "pillow"])
def test_frames_that_are_no_files_are_replaced_and_counted(backend, make_dataset):
    folder = make_dataset({"a": [0]}, {"b": [1]})
    pipe, device, loop, large, huge = sorted((folder / "frames" / "b").iterdir())[1:6]
    for path in (pipe, device, loop, huge):
        path.unlink()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    large.write_bytes(_announcing(30_000))
    with huge.open("wb") as file:
        file.truncate(2**40)  # takes no place on the disk
    data = VideoDataset(get_dataset("mine", folder), "val", 8, 64, training=False, backend=backend)
    frames, _, _ = data[0]
    assert data.replaced_frames.tolist() == [5]
    assert all(torch.equal(frames[number], frames[0 if number < 4 else 6]) for number in range(1, 6))


@pytest.fixture(scope="module")
def whole_checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "whole.pth.tar"
    torch.save({"epoch": 1, "state_dict": {f"module.layer{n}": torch.randn(50) for n in range(20)}}, path)
    return path


@pytest.mark.parametrize("tenth", range(10))
def test_a_checkpoint_cut_at_any_tenth_is_refused(tenth, whole_checkpoint, tmp_path):
    content = whole_checkpoint.read_bytes()
    path = tmp_path / "cut.pth.tar"
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(UserError) as error:
        checkpoint.read(path)
    assert "cut.pth.tar is not a checkpoint" in _one_line(error)


def test_a_zip_bomb_is_refused_before_it_unpacks(whole_checkpoint, tmp_path):
    path = tmp_path / "bomb.pth.tar"
    with zipfile.ZipFile(whole_checkpoint) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in whole.infolist():
            content = whole.read(entry)
            if entry.filename.endswith("data/0"):
                content = bytes(50_000_000)
            bomb.writestr(entry.filename, content)
    assert path.stat().st_size < 1_000_000
    with pytest.raises(UserError) as error:
        checkpoint.read(path)
    assert "bomb.pth.tar is not a checkpoint that can be read safely: it would unpack to 50," in _one_line(error)
