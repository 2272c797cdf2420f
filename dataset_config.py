"""Every known dataset: its files, frame template, separator between the fields of a split row, and metric.

A data folder holds a class file, two split files and a folder of frames, numbered from 1, for each video:

    DATA_DIR/classInd.txt                one class name per line
    DATA_DIR/actnet_train_split.txt      name,frames,label[,label...]
    DATA_DIR/actnet_val_split.txt
    DATA_DIR/frames/v_abc/image_00001.jpg

The folders of the videos stand in frames/ or in the data folder itself, as in Mini-Kinetics, and their frames have the
dataset's own or another common template: which, is seen from the first listed videos.

The names of the built-in sets are those of the published data (section 5.1 of arXiv 2412.11228). Any other name works
with classInd.txt, train_split.txt, val_split.txt and frames/. Nothing here imports torch, so that `--help` stays quick.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.utils.errors import UserError
from ops.utils.files import read_utf8

METRICS = ("map", "accuracy")
FRAMES_FOLDER = "frames"
VIDEO_PREFIX = "v_"  # of ActivityNet's files, which lists of them have or leave out
COMMON_TEMPLATES = (
    "image_{:05d}.jpg",
    "img_{:05d}.jpg",
    "frame{:04d}.jpg",
    "frame_{:05d}.jpg",
    "{:05d}.jpg",
    "image_{:06d}.jpg",
    "frame{:06d}.jpg",
)
_FOLDERS_TO_LOOK_AT = 3  # per split, when the frame template is checked
_TEMPLATE = re.compile(r"[^{}/\0]*\{0?(:0?\d?\d?d?)?\}[^{}/\0]*")  # a file name with one number, of 99 digits at most
_LONGEST_NAME = 255  # bytes, on every common file system
_NUMBERED_LINE = re.compile(r"(\d{1,9})([ ,\t]+)(.*\S.*)")
_HEADER = re.compile(  # such as id,name
    r"(id|index|idx|no|nr|number|(class|category|label)([ _]?(id|index|idx|no|nr|number))?)"
    r"[ ,\t]+((class|category|label)([ _]?name)?|name)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BuiltIn:
    """What is known of a dataset by name: candidate file names (published name first, generic last) and format."""

    class_files: tuple[str, ...] = ("classInd.txt",)
    train_splits: tuple[str, ...] = ("train_split.txt",)
    val_splits: tuple[str, ...] = ("val_split.txt",)
    template: str = COMMON_TEMPLATES[0]
    separator: str = ","
    metric: str | None = "accuracy"  # None: "map" where a row has several labels, else "accuracy"


_GENERIC = BuiltIn(metric=None)

BUILT_IN: dict[str, BuiltIn] = {
    "actnet": BuiltIn(
        train_splits=("actnet_train_split.txt", "train_split.txt"),
        val_splits=("actnet_val_split.txt", "val_split.txt"),
        metric="map",
    ),
    "fcvid": BuiltIn(
        train_splits=("fcvid_train_split.txt", "train_split.txt"),
        val_splits=("fcvid_val_split.txt", "val_split.txt"),
        metric="map",
    ),
    "minik": BuiltIn(
        class_files=("minik_classInd.txt", "classInd.txt"),
        train_splits=("mini_train_videofolder.txt", "train_split.txt"),
        val_splits=("mini_val_videofolder.txt", "val_split.txt"),
        template="img_{:05d}.jpg",
        separator=" ",
    ),
    "toy": BuiltIn(),
}


@dataclass(frozen=True)
class DatasetConfig:
    """One dataset as found on disk; `template.format(7)` is the file name of a video's seventh frame."""

    name: str
    classes: tuple[str, ...]
    train_split: Path
    val_split: Path
    frames_root: Path
    template: str
    separator: str
    metric: str  # "map" or "accuracy"
    notes: tuple[str, ...] = ()  # on how its files were understood, for the log

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def video_folder(self, name: str) -> str:
        """The folder of a listed video's frames; without or with the `v_` of its name, where only that one is there."""
        return _video_folder(self.frames_root, name)


def get_dataset(
    name: str, data_dir: str | os.PathLike, metric: str | None = None, template: str | None = None
) -> DatasetConfig:
    """Find a dataset's files under `data_dir`.

    `metric` and `template` override what is built in. The frames are looked for in `data_dir`/frames and in `data_dir`;
    without `template`, under the built-in one and the `COMMON_TEMPLATES`: see `find_frames`. For a name that is not
    built in, `metric` defaults to "map" where a split has a row with several labels, else "accuracy".

    Raises UserError when a folder or file is missing, or a class file, `metric` or `template` makes no sense.
    """
    if metric is not None and metric not in METRICS:
        raise UserError(f"metric {metric!r} is unknown: choose one of {', '.join(METRICS)}")
    if template is not None:
        _check_template(template)
    if not name or len(name) > 100 or name in (".", "..") or "/" in name or "\\" in name:
        raise UserError(f"dataset name {name!r:.60} cannot be used in a folder name: choose a plain word")
    known = BUILT_IN.get(name, _GENERIC)
    whose = f"dataset {name!r}"
    if name not in BUILT_IN:
        whose += f" (not built in; built in are {', '.join(BUILT_IN)})"

    folder = Path(os.path.expanduser(data_dir))
    if not folder.is_dir():
        raise UserError(f"{folder}: no such data folder for {whose}; give the folder that holds its split files")
    class_file = _find(folder, known.class_files, "class file", whose)
    train_split = _find(folder, known.train_splits, "training split", whose)
    val_split = _find(folder, known.val_splits, "validation split", whose)
    from ops.data.annotations import first_names, has_several_labels  # bring in numpy, which `--help` can do without

    splits = (train_split, val_split)
    first = [name for split in splits for name in first_names(split, known.separator, limit=_FOLDERS_TO_LOOK_AT)]
    templates = (template,) if template else (known.template, *COMMON_TEMPLATES)
    frames_root, template = find_frames((folder / FRAMES_FOLDER, folder), first, templates)
    if not frames_root.is_dir():
        raise UserError(
            f"{frames_root}: {whose} needs this folder with one folder of frames per video; "
            "make it with ops/video_jpg.py or link it there"
        )
    classes, notes = _read_classes(class_file)
    return DatasetConfig(
        name=name,
        classes=classes,
        train_split=train_split,
        val_split=val_split,
        frames_root=frames_root,
        template=template,
        separator=known.separator,
        metric=metric
        or known.metric
        or ("map" if any(has_several_labels(split, known.separator) for split in splits) else "accuracy"),
        notes=notes,
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a class file: one name per line, the line's place being the label.

    Where every line starts with a number and a comma or tab, the numbers are the labels, counted from 0 or from 1, in
    any order. With spaces instead, digits may be of the name (`1 star`, `2 stars`): they are taken as labels where they
    are all of those of such a list, unless what follows them is the same but for one word's plural. Above numbered
    lines there may be a header such as `id,name`.

    Raises UserError, with the line, for a blank line between names, a repeated name, numbers that are not those of a
    list, or text that is not UTF-8.
    """
    return _read_classes(path)[0]


def _read_classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names, and a note for the log where digits at the lines' beginnings could be understood otherwise."""
    text = read_utf8(path, "class file").decode()
    names = dict(enumerate((line.strip() for line in text.rstrip().split("\n")), start=1)) if text.strip() else {}
    if not names:
        raise UserError(f"{path}: the class file is empty; write one class name per line")

    numbered = {line: match for line, name in names.items() if (match := _NUMBERED_LINE.fullmatch(name))}
    if _HEADER.fullmatch(names[1]) and numbered and len(numbered) == len(names) - 1:
        del names[1]
    notes: tuple[str, ...] = ()
    if len(numbered) == len(names):
        names, notes = _without_numbers(path, numbered)

    first_line: dict[str, int] = {}
    for line, name in names.items():
        if not name:
            raise UserError(f"{path}:{line}: blank line between class names; take it out, since it shifts the labels")
        if name in first_line:
            raise UserError(f"{path}:{line}: class {name!r} already stands in line {first_line[name]}; make it unique")
        first_line[name] = line
    return tuple(first_line), notes


def _without_numbers(path: Path, numbered: Mapping[int, re.Match]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Names in the order of their numbers, by line, where these are labels, else all lines as they are; and notes."""
    by_number = sorted(numbered, key=lambda line: int(numbered[line][1]))
    names = {line: numbered[line][3] for line in by_number}
    numbers = [int(numbered[line][1]) for line in by_number]
    wrong = next((at for at, number in enumerate(numbers) if number != at + (numbers[0] == 1)), None)
    if all(match[2].isspace() and "\t" not in match[2] for match in numbered.values()):
        if wrong is not None or len(set(names.values())) <= 2 < len(names):  # 1 star, 2 stars, 3 stars
            names = {line: match[0] for line, match in numbered.items()}
            return names, (f"{path}: the numbers that the lines begin with are taken as parts of the class names",)
        return names, (f"{path}: the numbers that the lines begin with are taken as labels, not as parts of the names",)
    if wrong is not None:
        raise UserError(
            f"{path}:{by_number[wrong]}: class number {numbers[wrong]} does not go on from the one below it: number "
            f"the {len(numbers)} lines from 0 or from 1, each once, or take the numbers out"
        )
    return names, ()


def find_frames(roots: Sequence[Path], names: Sequence[str], templates: Sequence[str]) -> tuple[Path, str]:
    """Choose the folder that the videos' folders stand in, and the frame template, by looking for some videos.

    The first root, and for it the first template, under which any of the videos has a frame 1; else the first root with
    a folder of any of them, else the first of all, with the first template: the check of the data then says what is
    missing.
    """
    with_folders = []
    for root in roots:
        listings = [listing for name in names if (listing := _listing(_video_folder(root, name))) is not None]
        for template in templates:
            if any(template.format(1) in listing for listing in listings):
                return root, template
        if listings:
            with_folders.append(root)
    return (with_folders or roots)[0], templates[0]


def _find(folder: Path, candidates: Sequence[str], what: str, whose: str) -> Path:
    for candidate in candidates:
        path = folder / candidate
        if path.is_file():
            if not os.access(path, os.R_OK):
                raise UserError(f"{path}: this {what} of {whose} cannot be read; check its permissions")
            return path
    raise UserError(f"{folder}: no {what} of {whose} in this folder; put {' or '.join(candidates)} there")


def _check_template(template: str) -> None:
    if not _TEMPLATE.fullmatch(template) or len(os.fsencode(template.format(1))) > _LONGEST_NAME:
        raise UserError(
            f"frame template {template!r:.99} does not number frames in file names (of {_LONGEST_NAME} bytes at most): "
            f"write it like {COMMON_TEMPLATES[0]}"
        )


def _video_folder(root: str | os.PathLike, name: str) -> str:
    folder = os.path.join(root, name)
    if os.path.isdir(folder):
        return folder
    parent, own = os.path.split(folder)
    other = own.removeprefix(VIDEO_PREFIX) if own.startswith(VIDEO_PREFIX) else VIDEO_PREFIX + own
    other = os.path.join(parent, other)
    return other if os.path.isdir(other) else folder


def _listing(folder: str) -> set[str] | None:
    try:
        return set(os.listdir(folder))
    except OSError:  # a video without a folder is reported by the check of the data
        return None
