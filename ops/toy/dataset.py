"""The embedded default: small real videos made on the spot, and the dataset that `--dataset toy` trains on.

    python -m ops.toy.dataset                                       # data/toy, as main.py --dataset toy makes it
    python -m ops.toy.dataset --data_dir data/toy --num_train 864 --remake
    python -m ops.toy.dataset --data_dir data/large --height 240 --width 280 --frames 64 --badge_percent 10

The last line then reads

    done: 432 + 180 videos of 12 classes in data/toy

DATA_DIR/videos holds the videos, DATA_DIR/frames their frames, made by `ops.video.extraction` as for any video, and
classInd.txt, train_split.txt and val_split.txt are in ActivityNet's format. What decides the class, a small badge that
is there for part of the time, stands in DATA_DIR/truth.json, so that one can see whether the policies find it:

    {"train_0001": {"class": "green stripes", "first_frame": 9, "last_frame": 20,
                    "boxes": {"9": [left, top, right, bottom], ...}}, ...}

in pixels of a frame (right and bottom just outside the badge) and frame numbers from 1. `ops.toy.scene` draws the
videos. A folder is made once and then reused; `--remake` makes it again with other settings.
"""

import contextlib
import fcntl
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataset_config import BUILT_IN, FRAMES_FOLDER
from ops.toy.scene import BADGE_PERCENT, CLASS_NAMES, draw_video
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from ops.utils.processes import run_jobs
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings, FrameTemplate
from ops.video.opencv import prepare_worker
from opts import OneLineParser

DEFAULT_FOLDER = Path("data") / "toy"
SETTINGS_FILE = "toy_settings.json"  # written first and completed last; where it is, this program made the folder
CLASS_FILE, TRAIN_FILE, VAL_FILE, TRUTH_FILE = "classInd.txt", "train_split.txt", "val_split.txt", "truth.json"
VIDEOS_FOLDER = "videos"
SPLITS = ("train", "val")
_FRAME_RATE = 12.0
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ToySettings:
    """What to make; the same settings give the same videos. Raises UserError for values that make no sense."""

    num_train: int = 432
    num_val: int = 180
    num_classes: int = 12
    frames: int = 20  # per video
    height: int = 144  # pixels
    width: int = 144
    seed: int = 0
    badge_percent: int = BADGE_PERCENT  # of the frames, in which the badge is there; see `draw_video`

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_train", 1, 99_999), ("num_val", 1, 99_999), ("num_classes", 2, len(CLASS_NAMES)),
            ("frames", 3, 10_000), ("height", 32, 2160), ("width", 32, 3840), ("seed", 0, 2**63),
            ("badge_percent", 1, 100),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UserError(f"--{name} {getattr(self, name)} must be from {low} to {high}")
        for name in ("height", "width"):
            if getattr(self, name) % 2:
                raise UserError(f"--{name} {getattr(self, name)} must be even, as the video encoder wants it")
        if self.width < self.height:
            raise UserError(f"--width {self.width} must not be below --height {self.height}")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; a label is a place in here."""
        return CLASS_NAMES[: self.num_classes]

    def videos(self) -> Iterator[tuple[str, int, tuple[int, int, int]]]:
        """Name, label and seed of each video; a split's labels go round, so that classes differ by at most one."""
        for split_number, (split, count) in enumerate(zip(SPLITS, (self.num_train, self.num_val), strict=True)):
            for index in range(count):
                yield f"{split}_{index + 1:04d}", index % self.num_classes, (self.seed, split_number, index)


def make_toy_dataset(
    data_dir: Path, settings: ToySettings | None = None, remake: bool = False, workers: int = 1
) -> bool:
    """Make the toy dataset in `data_dir`, or reuse it. Returns whether it was made.

    settings: None reuses a complete folder whatever its settings, and makes one with the defaults where there is none.
    remake: replace what this program made there before. workers: processes that share the work.
    A folder left half-made, or that lost a video, is made again with the settings it had; a failure leaves nothing but
    the settings file, which says so. Another process that makes the same folder is waited for.
    Raises UserError where `data_dir` holds something else, or the dataset with other settings or of a version with
    other classes and not `remake`, or where the videos cannot be written.
    """
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"{data_dir}: is not a folder; choose another --data_dir for the toy dataset")
    if data_dir.is_dir() and any(data_dir.iterdir()) and not (data_dir / SETTINGS_FILE).is_file():
        raise UserError(f"{data_dir}: it holds something else than the toy dataset; choose another --data_dir")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with _locked(data_dir / SETTINGS_FILE):
            made_with, is_whole = _recorded_settings(data_dir)
            if is_whole and not remake:
                if (data_dir / CLASS_FILE).read_bytes() != _text(made_with.classes).encode():
                    advice = f"make it anew with python -m ops.toy.dataset --data_dir {data_dir} --remake"
                    raise UserError(f"{data_dir / CLASS_FILE}: has other classes than this version's videos; {advice}")
                before, after = asdict(made_with), asdict(settings or made_with)
                changes = [
                    f"{name} {before[name]}, not {after[name]}" for name in before if before[name] != after[name]
                ]
                if changes:
                    advice = "add --remake, or choose another --data_dir"
                    raise UserError(f"{data_dir}: was made with {'; '.join(changes)}; {advice}")
                return False
            (data_dir / SETTINGS_FILE).open("a").close()  # raises where it may only be read, before anything is removed
            _clear(data_dir)
            try:
                _make(data_dir, settings or (None if remake else made_with) or ToySettings(), workers)
            except BaseException:
                _clear(data_dir)
                raise
    except OSError as error:
        raise UserError(f"{error.filename or data_dir}: {error.strerror}; the toy dataset is not made") from None
    return True


def _make(data_dir: Path, settings: ToySettings, workers: int) -> None:
    settings_file, described = data_dir / SETTINGS_FILE, {"settings": asdict(settings)}
    settings_file.write_text(json.dumps({"complete": False} | described) + "\n")
    videos_folder = data_dir / VIDEOS_FOLDER
    videos_folder.mkdir()
    jobs = [(videos_folder / f"{name}.mp4", label, seed, settings) for name, label, seed in settings.videos()]
    boxes = {}
    for (path, *_), result in run_jobs(_draw, jobs, workers, lambda amount: None, prepare_worker):
        if isinstance(result, str):
            raise UserError(f"{path}: {result}")
        boxes[path.stem] = result
    truth, rows = {}, {split: [] for split in SPLITS}
    for name, label, _ in settings.videos():
        first, last = min(boxes[name]), max(boxes[name])
        truth[name] = {
            "class": settings.classes[label], "first_frame": first, "last_frame": last, "boxes": boxes[name]
        }  # fmt: skip
        rows[name.partition("_")[0]].append(f"{name},{settings.frames},{label}")
    frames_root = data_dir / FRAMES_FOLDER
    template = FrameTemplate.parse(BUILT_IN["toy"].template)
    how = FrameSettings(template, settings.height, jpeg_quality=_JPEG_QUALITY, backend="opencv")  # the same everywhere
    summary = extract_videos(videos_folder, frames_root, how, workers=workers)
    for name in truth:
        if len(list((frames_root / name).glob("*.jpg"))) != settings.frames:
            reason = dict(summary.failed).get(f"{name}.mp4", f"not {settings.frames} frames")
            raise UserError(f"{videos_folder / name}.mp4: the video just written cannot be read back ({reason})")
    (data_dir / TRUTH_FILE).write_text(json.dumps(truth) + "\n")
    for name, lines in ((CLASS_FILE, settings.classes), (TRAIN_FILE, rows["train"]), (VAL_FILE, rows["val"])):
        (data_dir / name).write_text(_text(lines))
    settings_file.write_text(json.dumps({"complete": True} | described) + "\n")


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _draw(job: tuple[Path, int, tuple[int, int, int], ToySettings], report: Callable[[int], None]) -> dict | str:
    """Draw the video of (file, label, seed, settings) and write it: where its badge is, or why that failed."""
    path, label, seed, settings = job
    shape = {name: getattr(settings, name) for name in ("frames", "height", "width", "badge_percent")}
    video = draw_video(label, seed, **shape)
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"mp4v"), _FRAME_RATE, (settings.width, settings.height)
    )  # fmt: skip
    if not writer.isOpened():
        return "OpenCV cannot write MPEG-4 video here; install opencv-python with its FFmpeg"
    for frame in video.frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return video.boxes


@contextlib.contextmanager
def _locked(settings_file: Path) -> Iterator[None]:
    """One process at a time works in the folder of the file; those that may only read it do so together."""
    try:
        file, kind = settings_file.open("a"), fcntl.LOCK_EX
    except PermissionError:
        file, kind = settings_file.open(), fcntl.LOCK_SH
    with file:
        fcntl.flock(file, kind)
        yield


def _recorded_settings(data_dir: Path) -> tuple[ToySettings | None, bool]:
    """The settings a folder was made with, None where unreadable; whether it was made to the end and has its parts."""
    try:
        recorded = json.loads((data_dir / SETTINGS_FILE).read_text())
        settings, complete = ToySettings(**recorded["settings"]), recorded["complete"]
    except (ValueError, KeyError, TypeError, UserError):  # empty, cut off, or changed by hand
        return None, False
    files_are_there = all((data_dir / name).is_file() for name in (CLASS_FILE, TRAIN_FILE, VAL_FILE, TRUTH_FILE))
    frames_root = data_dir / FRAMES_FOLDER
    videos_are_there = all((frames_root / name).is_dir() for name, _, _ in settings.videos())
    return settings, complete and files_are_there and videos_are_there


def _clear(data_dir: Path) -> None:
    """Remove what this program makes, and nothing else."""
    for name in (VIDEOS_FOLDER, FRAMES_FOLDER):
        if (data_dir / name).is_dir():
            shutil.rmtree(data_dir / name)
    for name in (CLASS_FILE, TRAIN_FILE, VAL_FILE, TRUTH_FILE):
        (data_dir / name).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make or reuse the dataset of the command line; returns the exit code."""
    parser = OneLineParser(description="Make the toy dataset.", allow_abbrev=False)
    parser.add_argument("--data_dir", type=Path, default=DEFAULT_FOLDER, help="folder to make (default: data/toy)")
    for field in fields(ToySettings):
        parser.add_argument(f"--{field.name}", type=int, help=f"default: {field.default}")
    parser.add_argument("--remake", action="store_true", help="replace what was made there before")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work (default: 1)")
    options = vars(parser.parse_args(arguments))
    data_dir, remake, workers = (options.pop(name) for name in ("data_dir", "remake", "workers"))
    given = {name: value for name, value in options.items() if value is not None}
    made = make_toy_dataset(data_dir, ToySettings(**given) if given else None, remake, workers)
    made_with = ToySettings(**json.loads((data_dir / SETTINGS_FILE).read_text())["settings"])
    print(
        f"{'done' if made else 'already there'}: {made_with.num_train} + {made_with.num_val} videos of "
        f"{made_with.num_classes} classes in {data_dir}"
    )
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
