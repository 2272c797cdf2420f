"""Split files -> arrays: video names, frame counts and labels, without a Python object per video.

A million names in a list would be copied page by page into every loader worker as reference counts change; one bytes
object and a few arrays are shared, and cheap to pickle.
"""

import hashlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ops.utils.errors import UserError
from ops.utils.files import read_utf8

MAX_LABELS = 3
MAX_FRAMES = 10_000_000  # four days at 30 frames per second: above it, the field is something else
MAX_LINE_BYTES = 64 * 1024
_MAX_DIGITS = 9
_LINES_TO_NAME = 5


@dataclass(frozen=True, eq=False)
class Annotations:
    """The videos of one split, in the order of its file."""

    path: Path
    name_bytes: bytes  # all names in UTF-8, one after the other
    name_offsets: np.ndarray  # int64 [N+1]
    frames: np.ndarray  # int32 [N], frames per video
    labels: np.ndarray  # int64 [N, 3], padded with -1
    line_numbers: np.ndarray  # int32 [N], from 1
    left_out: int  # rows with too few frames
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def name(self, index: int) -> str:
        """The name of video `index` (0..N-1), as in the split file."""
        if not 0 <= index < len(self):
            raise IndexError(f"video {index} of {len(self)}")
        return self.name_bytes[self.name_offsets[index] : self.name_offsets[index + 1]].decode()

    def names(self) -> list[str]:
        """All names, in the order of the split file."""
        return [self.name(index) for index in range(len(self))]

    def digest(self) -> str:
        """SHA-256 of what the list says, in hexadecimal."""
        listed = hashlib.sha256(self.name_bytes)
        for column in (self.name_offsets, self.frames, self.labels):
            listed.update(column.tobytes())
        return listed.hexdigest()

    def without(self, rows: Sequence[int]) -> "Annotations":
        """The same list without the videos `rows` (0..N-1); the others keep their order and their line numbers."""
        keep = np.ones(len(self), bool)
        keep[np.asarray(rows, np.int64)] = False
        lengths = np.diff(self.name_offsets)
        kept_bytes = np.frombuffer(self.name_bytes, np.uint8)[np.repeat(keep, lengths)]
        return replace(
            self,
            name_bytes=kept_bytes.tobytes(),
            name_offsets=np.concatenate([[0], np.cumsum(lengths[keep])]).astype(np.int64),
            frames=self.frames[keep],
            labels=self.labels[keep],
            line_numbers=self.line_numbers[keep],
        )


def read_annotations(path: str | os.PathLike, separator: str, num_classes: int, min_frames: int = 3) -> Annotations:
    """Read a split file with rows `name,frames,label[,label...]`, or `name frames label` where separator is " ".

    A row's labels are its distinct ones, sorted, three at most: the lists as they are handed round repeat a label for
    each time that it is annotated. With a space between fields the name may hold spaces: the last two fields are
    numbers and the rest is the name. A byte-order mark, CRLF, blank lines and, between commas, empty fields at the end
    are tolerated. Rows under `min_frames` frames are left out and counted. A video listed twice is kept twice, with a
    warning in `.warnings`.

    Raises UserError, with file and line, for anything that cannot be a row of this dataset.
    """
    path = Path(path)
    separator_bytes = separator.encode()
    name_bytes, name_offsets = bytearray(), array("q", [0])
    frames, labels, line_numbers = array("i"), array("q"), array("i")
    seen: set[bytes] = set()
    repeated: list[int] = []
    left_out = 0
    for line_number, line in enumerate(read_utf8(path, "split file").split(b"\n"), start=1):
        row = line.strip()
        if not row:
            continue
        try:
            name, row_frames, row_labels = _parse_row(row, separator_bytes, num_classes)
        except ValueError as error:
            raise UserError(f"{path}:{line_number}: {error}") from None
        if row_frames < min_frames:
            left_out += 1
            continue
        if name in seen:
            repeated.append(line_number)
        seen.add(name)
        name_bytes += name
        name_offsets.append(len(name_bytes))
        frames.append(row_frames)
        labels.extend(row_labels)
        line_numbers.append(line_number)

    if not frames:
        rest = f" (all {left_out} rows have fewer)" if left_out else ""
        raise UserError(f"{path}: lists no video with at least {min_frames} frames{rest}; check the split file")
    return Annotations(
        path=path,
        name_bytes=bytes(name_bytes),
        name_offsets=np.array(name_offsets, np.int64),
        frames=np.array(frames, np.int32),
        labels=np.array(labels, np.int64).reshape(-1, MAX_LABELS),
        line_numbers=np.array(line_numbers, np.int32),
        left_out=left_out,
        warnings=(_describe_repeats(path, repeated),) if repeated else (),
    )


def has_several_labels(path: str | os.PathLike, separator: str) -> bool:
    """Whether any row of a split file has two distinct labels; rows that `read_annotations` would refuse have not."""
    separator_bytes = separator.encode()
    with open(path, "rb") as file:
        for line in file:
            if line.count(separator_bytes) < 3:  # one label
                continue
            try:
                _, (_, *labels) = _split_row(line.strip(), separator_bytes)
                if len(set(map(int, labels))) > 1:
                    return True
            except ValueError:
                continue
    return False


def first_names(path: str | os.PathLike, separator: str, limit: int) -> list[str]:
    """The names in the first `limit` rows of a split file; rows that `read_annotations` would refuse are skipped."""
    names = []
    with open(path, "rb") as file:
        for line in islice(file, limit):
            try:
                name, _ = _split_row(line.removeprefix(b"\xef\xbb\xbf").strip(), separator.encode())
                names.append(name.decode())
            except ValueError:  # UnicodeDecodeError is one
                continue
    return names


def _split_row(row: bytes, separator: bytes) -> tuple[bytes, list[bytes]]:
    """A row's name and its number fields, still as text; ValueError where the row has too few or too many fields."""
    if separator == b" ":
        fields = row.rsplit(None, 2)
        if len(fields) < 3:
            raise ValueError("too few fields; a row reads: name frames label")
    else:
        ends = separator + b" \t"  # spreadsheets make rows equally long by empty fields at the end
        fields = [field.strip() for field in row.rstrip(ends).split(separator)]
        if len(fields) < 3:
            raise ValueError(f"{len(fields)} fields; a row reads: name,frames,label[,label], with no comma in the name")
    _check_name(fields[0])
    return fields[0], fields[1:]


def _parse_row(row: bytes, separator: bytes, num_classes: int) -> tuple[bytes, int, list[int]]:
    """Name, frames and labels padded with -1; ValueError says what is wrong and what to do."""
    if len(row) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes; this does not look like a split file")
    name, fields = _split_row(row, separator)
    for field in fields:
        if not field.isdigit() or len(field) > _MAX_DIGITS:
            raise ValueError(
                f"{_shorten(field)} is not a whole number in range; "
                "give frames and labels as numbers from 0, after the name"
            )
    frames, labels = int(fields[0]), sorted(set(map(int, fields[1:])))
    if frames > MAX_FRAMES:
        raise ValueError(f"{frames} frames is more than {MAX_FRAMES}; check the order of the fields")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} distinct labels; a video has {MAX_LABELS} at most")
    if labels[-1] >= num_classes:
        raise ValueError(
            f"label {labels[-1]} is outside 0..{num_classes - 1}, since the class file lists {num_classes} classes; "
            "labels count from 0"
        )
    return name, frames, labels + [-1] * (MAX_LABELS - len(labels))


def _check_name(name: bytes) -> None:
    """Refuse names that would read outside the frames folder."""
    if not name:
        raise ValueError("the video name is empty; a row starts with it")
    if b"\0" in name:
        raise ValueError("the video name holds a NUL byte; this does not look like a split file")
    if name[0] in b"/\\" or name[1:3] in (b":/", b":\\"):
        raise ValueError(f"{_shorten(name)} is absolute; give a name relative to the frames folder")
    if b"." in name and not {b"..", b"."}.isdisjoint(name.replace(b"\\", b"/").split(b"/")):
        raise ValueError(f"{_shorten(name)} has a '.' or '..' part; give a name inside the frames folder")


def _shorten(field: bytes) -> str:
    text = field.decode(errors="replace")
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _describe_repeats(path: Path, lines: list[int]) -> str:
    named = ", ".join(map(str, lines[:_LINES_TO_NAME])) + (", ..." if len(lines) > _LINES_TO_NAME else "")
    return f"{path}: {len(lines)} rows repeat a video listed above them (lines {named}); all are kept"
