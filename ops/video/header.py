"""What OpenCV does not tell of a video file, from a few bytes of its header.

Whether there is sound (then the picture may start late, and ffmpeg repeats the first frame until then), how much of an
MP4 file its edit list shows, and whether a Matroska or WebM file was cut off.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEAD_BYTES = 1 << 20  # of a Matroska file; its list of tracks is among them
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_AUDIO_CODEC_ID = re.compile(rb"\x86[\x80-\xff]A_")


def read_header(path: Path) -> tuple[str, bool, float | None, bool]:
    """(container, has sound, seconds shown by the edit list of an MP4 file, whether all bytes promised are there)."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD_BYTES)
            if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
                return "mp4", *_read_movie_box(file, size), True
            if head[:4] == _EBML.to_bytes(4, "big"):
                return "matroska", bool(_AUDIO_CODEC_ID.search(head)), None, _segment_end(head) <= size
            if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
                return "avi", b"auds" in head[:65536], None, True
    except (OSError, struct.error, IndexError):  # OpenCV could open it: go on with what it says
        pass
    return "other", False, None, True


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an MP4 file between two offsets: (type, start of the content, end)."""
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if size == 1:
            size = struct.unpack(">Q", file.read(8))[0]
            content += 8
        box_end = end if size == 0 else min(start + size, end)
        if box_end < content:
            return
        yield kind, content, box_end
        start = box_end


def _read_movie_box(file: BinaryIO, size: int) -> tuple[bool, float | None]:
    """Whether there is a sound track, and how long the edit list shows the first video track, if there is one."""
    has_audio, shown_seconds, found_video, timescale = False, None, False, 0
    for box, start, end in _boxes(file, 0, size):
        if box != b"moov":
            continue
        for inner, inner_start, inner_end in _boxes(file, start, end):
            if inner == b"mvhd":
                file.seek(inner_start)
                version = file.read(1)[0]
                file.seek(inner_start + (20 if version else 12))
                timescale = struct.unpack(">I", file.read(4))[0]
            elif inner == b"trak":
                handler, units = _read_track_box(file, inner_start, inner_end)
                has_audio = has_audio or handler == b"soun"
                if handler == b"vide" and not found_video:
                    found_video = True
                    shown_seconds = units / timescale if units and timescale else None
    return has_audio, shown_seconds


def _read_track_box(file: BinaryIO, start: int, end: int) -> tuple[bytes, int]:
    """(kind of track, length of its edits in units of the movie's time scale, 0 where it has none)."""
    handler, units = b"", 0
    for box, box_start, box_end in _boxes(file, start, end):
        for inner, inner_start, _ in _boxes(file, box_start, box_end) if box in (b"mdia", b"edts") else ():
            file.seek(inner_start)
            if inner == b"hdlr":
                handler = file.read(12)[8:]
            elif inner == b"elst":
                version, count = struct.unpack(">B3xI", file.read(8))
                entry = struct.Struct(">QqI" if version else ">IiI")
                for _ in range(count):
                    duration, media_time, _rate = entry.unpack(file.read(entry.size))
                    units += duration if media_time >= 0 else 0  # negative: nothing is shown yet
    return handler, units


def _segment_end(head: bytes) -> int:
    """The offset at which a Matroska file says it ends; 0 where it does not say."""
    position = 0
    while position + 12 <= len(head):
        kind = int.from_bytes(head[position : position + 4], "big")
        length = 9 - head[position + 4].bit_length()  # of the size field
        mask = (1 << (7 * length)) - 1
        content = int.from_bytes(head[position + 4 : position + 4 + length], "big") & mask
        position += 4 + length
        if kind == _SEGMENT:
            return 0 if content == mask else position + content
        if kind != _EBML:
            return 0
        position += content
    return 0
