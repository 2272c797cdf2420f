"""A table of labels -> the class file and the two split files of a dataset, with the frame counts found on disk.

The table is a CSV file with a header line and the columns `video`, `label` and, if wanted, `split` (train or val), in
capital or small letters:

    video,label,split
    cooking/pasta.mp4,making pasta,train
    cooking/soup,making soup,val

Videos are named as in the folder of videos, with or without extension; several rows for one video give it several
labels. What is written: `classInd.txt` (one class name per line, sorted; the line's place, from 0, is the label) and
`train_split.txt` and `val_split.txt` with rows `name,frames,label[,label[,label]]`.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ops.utils.errors import UserError
from ops.utils.files import whole_file
from ops.video.frame_folders import FrameTemplate

CLASS_FILE, TRAIN_FILE, VAL_FILE = "classInd.txt", "train_split.txt", "val_split.txt"
MAX_LABELS = 3
VAL_SHARE = 0.2
_SPLITS = ("train", "val")
_ALSO_CALLED = {"training": "train", "validation": "val"}


@dataclass
class LabelledVideo:
    """What the table says about one video."""

    name: str  # of its folder of frames, under the frames root
    written: str  # its name in the table
    line: int  # the first one that names it
    labels: list[str] = field(default_factory=list)
    split: str | None = None


@dataclass(frozen=True)
class SplitSummary:
    """What was written, and which videos of the table are missing there: (name, why)."""

    classes: int
    train: int
    val: int
    left_out: list[tuple[str, str]]


def read_labels(path: Path, videos: Iterable[str], separator: str = ",") -> list[LabelledVideo]:
    """Read the table. `videos` are the file names that it may use, relative to the folder of videos.

    `separator` is the one between the fields of the split files to be written. Raises UserError, with the line, where
    the table or a row makes no sense, and for a video that is not in `videos`.
    """
    folder_of = {video: str(PurePosixPath(video).with_suffix("")) for video in videos}
    known = {name: name for name in folder_of.values()} | folder_of
    found: dict[str, LabelledVideo] = {}
    has_split = False
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames = [column.strip().lower() for column in rows.fieldnames or []]
            _check_columns(columns, f"{path}:1")
            has_split = "split" in columns
            for row in rows:
                _add_row(row, f"{path}:{rows.line_num}", rows.line_num, known, found, separator, has_split)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check --write_split") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save the table as UTF-8") from None
    except csv.Error as error:
        raise UserError(f"{path}:{rows.line_num}: {error}; write a CSV file") from None
    if not found:
        raise UserError(f"{path}: names no video; write a row for each below the header line")
    if not has_split:
        _draw_splits(list(found.values()))
    for split in _SPLITS:
        if not any(video.split == split for video in found.values()):
            raise UserError(
                f"{path}: leaves no video for the {split} split; label two or more videos of some class, or say "
                "which go where in a column split (train or val)"
            )
    return list(found.values())


def write_split_files(
    videos: Sequence[LabelledVideo],
    frames_root: Path,
    folder: Path,
    template: FrameTemplate,
    separator: str = ",",
) -> SplitSummary:
    """Count the frames of each video under `frames_root` and write the three files into `folder`, all or none.

    Videos without frames are left out, and named in what is returned; their classes stay. Raises UserError where a
    split would be empty or a file cannot be written.
    """
    classes = sorted({label for video in videos for label in video.labels})
    index = {label: number for number, label in enumerate(classes)}
    rows: dict[str | None, list[str]] = {split: [] for split in _SPLITS}
    left_out = []
    for video in sorted(videos, key=lambda video: video.name):
        numbers = template.numbers(frames_root / video.name)
        frames = len(numbers)
        if not numbers:
            left_out.append((video.name, "has no frames"))
        elif min(numbers) != 1 or max(numbers) != frames:
            left_out.append((video.name, f"has {frames} frames, not numbered 1 to {frames}"))
        else:
            fields = [video.name, str(frames), *(str(index[label]) for label in video.labels)]
            rows[video.split].append(separator.join(fields))
    for split in _SPLITS:
        if not rows[split]:
            raise UserError(
                f"{folder}: no video with frames is left for the {split} split; "
                "label more videos, or say which go where in a column split (train or val)"
            )
    contents = {CLASS_FILE: classes, TRAIN_FILE: rows["train"], VAL_FILE: rows["val"]}
    with ExitStack() as together:  # all are written before the first gets its name
        for name, lines in contents.items():
            file = together.enter_context(whole_file(folder / name))
            file.write("".join(f"{line}\n" for line in lines).encode())
            file.flush()
    return SplitSummary(len(classes), len(rows["train"]), len(rows["val"]), left_out)


def _check_columns(columns: Sequence[str], where: str) -> None:
    missing = [column for column in ("video", "label") if column not in columns]
    doubled = [column for column in columns if column and list(columns).count(column) > 1]
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if missing and separator in "".join(columns):
            raise UserError(f"{where}: the columns are separated by {name}; separate them by commas")
    if missing:
        raise UserError(f"{where}: no column {missing[0]!r}; begin with the header line video,label")
    if doubled:
        raise UserError(f"{where}: column {doubled[0]!r} comes more than once; keep one of them")


def _add_row(
    row: dict,
    where: str,
    line: int,
    known: dict[str, str],
    found: dict[str, LabelledVideo],
    separator: str,
    has_split: bool,
) -> None:
    if not "".join(text for value in row.values() for text in value or ()).strip():  # as spreadsheets leave rows
        return
    if None in row:  # what is beyond the header's columns
        raise UserError(f"{where}: more fields than columns; put a name or label with a comma in it in quotes")
    written, label = row["video"] or "", (row["label"] or "").strip()
    if written not in known:
        written = written.strip()
    if not written:
        raise UserError(f"{where}: no video named; fill in the column 'video'")
    if not label:
        raise UserError(f"{where}: video {written!r} has no label; fill in the column 'label' or take the row out")
    if "\n" in label or "\r" in label:
        raise UserError(f"{where}: label {label!r} goes over several lines; write it in one")
    if written not in known:
        raise UserError(f"{where}: no video {written!r} in the folder of videos; correct the name or take the row out")
    name = known[written]
    if (separator == "," and "," in name) or name != name.strip() or not name.isprintable():
        raise UserError(
            f"{where}: the split file cannot hold the name {name!r} (a comma, a space at an end, or a control "
            "character); rename the video"
        )
    video = found.setdefault(name, LabelledVideo(name, written, line))
    if video.written != written and {video.written, written}.isdisjoint({name}):
        raise UserError(f"{where}: {written!r} and {video.written!r} (line {video.line}) share a folder; rename one")
    if label in video.labels:
        raise UserError(f"{where}: video {written!r} already has the label {label!r}; take the row out")
    limit = MAX_LABELS if separator == "," else 1
    if len(video.labels) == limit:
        raise UserError(f"{where}: video {written!r} has more than {limit} label(s), which the split file cannot hold")
    split = (row["split"] or "").strip().lower() if has_split else None
    split = _ALSO_CALLED.get(split, split)
    if has_split and split not in _SPLITS:
        raise UserError(f"{where}: split {split!r} of video {written!r} is unknown: write train or val")
    if video.labels and split != video.split:
        raise UserError(f"{where}: video {written!r} is in the {video.split} split in line {video.line}; give it one")
    video.labels.append(label)
    video.split = split


def _draw_splits(videos: Sequence[LabelledVideo]) -> None:
    """Within each class (of the first label), the fifth with the lowest hash of the name goes to val.

    The same table gives the same splits everywhere. A class with several videos is in both splits.
    """
    by_class: dict[str, list[LabelledVideo]] = {}
    for video in videos:
        by_class.setdefault(video.labels[0], []).append(video)
    for members in by_class.values():
        members.sort(key=lambda video: hashlib.sha256(video.name.encode()).digest())
        held_out = min(max(1, round(VAL_SHARE * len(members))), len(members) - 1)
        for place, video in enumerate(members):
            video.split = "val" if place < held_out else "train"
