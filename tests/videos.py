"""Small videos made on the spot, for the tests of frame extraction."""

import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

CODECS = {".avi": "MJPG", ".webm": "VP80"}


def make_video(path: Path, frames: int = 20, rate: float = 10.0, width: int = 64, height: int = 48) -> Path:
    """A video whose frame n (from 0) shows n in eight columns, a white one for each 1; `frame_number` reads it."""
    bits = [np.unpackbits(np.array([number % 256], np.uint8)) * 255 for number in range(frames)]
    pictures = [np.repeat(row[None, :, None], 3, axis=2) for row in bits]
    return _write(path, [cv2.resize(picture, (width, height), interpolation=0) for picture in pictures], rate)


def make_colourful_video(path: Path, seed: int, frames: int = 20, rate: float = 10.0) -> Path:
    """A video of 100 x 80 pixels with moving colours of its own."""
    base = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), np.uint8)
    base = cv2.resize(base, (100, 80), interpolation=cv2.INTER_LINEAR)
    return _write(path, [np.roll(base, 7 * number, axis=1) for number in range(frames)], rate)


def _write(path: Path, pictures: Sequence[np.ndarray], rate: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(f"plain{path.suffix}")  # OpenCV takes some names for patterns
    codec = cv2.VideoWriter_fourcc(*CODECS.get(path.suffix, "mp4v"))
    writer = cv2.VideoWriter(str(plain), codec, rate, pictures[0].shape[1::-1])
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    plain.rename(path)
    return path


def frame_number(image: np.ndarray) -> int:
    """Which frame of `make_video` a picture is."""
    columns = cv2.resize(image, (8, 1), interpolation=cv2.INTER_AREA).mean(axis=(0, 2))
    return int(np.packbits(columns > 128)[0])


def set_durations(path: Path, entries: Sequence[tuple[int, int]]) -> None:
    """Give the frames of an MP4 file other durations: (number of frames, factor) for each stretch, in order."""
    set_edit(path, frames=sum(count * factor for count, factor in entries), skipped=0)
    content = path.read_bytes()
    start = content.index(b"stts") - 4
    size, old_count, _, duration = struct.unpack(">I8xIII", content[start : start + 24])
    assert old_count == 1
    table = b"".join(struct.pack(">II", count, factor * duration) for count, factor in entries)
    _replace_box(path, start, size, struct.pack(">I4sII", 16 + len(table), b"stts", 0, len(entries)) + table)


def set_edit(path: Path, frames: int, skipped: int) -> None:
    """Make an MP4 file show only `frames` of its frames, after `skipped` of them; all stay in the file."""
    content = path.read_bytes()
    durations = content.index(b"stts")
    duration = struct.unpack(">I", content[durations + 16 : durations + 20])[0]
    media_scale = struct.unpack(">I", content[(at := content.index(b"mdhd") + 16) : at + 4])[0]
    movie_scale = struct.unpack(">I", content[(at := content.index(b"mvhd") + 16) : at + 4])[0]
    start = content.index(b"elst") - 4
    size, count = struct.unpack(">I8xI", content[start : start + 16])
    shown = frames * duration * movie_scale // media_scale
    edit = struct.pack(">I4sIIIiI", 28, b"elst", 0, 1, shown, skipped * duration, 1 << 16)
    assert count == 1
    _replace_box(path, start, size, edit)


def _replace_box(path: Path, start: int, size: int, box: bytes) -> None:
    """Replace a box inside `moov`, which must come last, and correct the sizes of the boxes around it."""
    content = bytearray(path.read_bytes())
    position, end = 0, len(content)
    while position < start:
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        if position + length <= start:
            position += length
            continue
        assert position + length <= end
        content[position : position + 4] = struct.pack(">I", length + len(box) - size)
        position, end = position + 8, position + length
        assert kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts")
    content[start : start + size] = box
    path.write_bytes(content)


def replace_ffmpeg(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let the command ffmpeg be a shell script, which finds the program of that name in $FFMPEG."""
    monkeypatch.setenv("FFMPEG", shutil.which("ffmpeg"))
    program = folder / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
