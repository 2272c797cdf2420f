"""What a run leaves behind in its folder, and what it prints.

log.csv        the console lines of training; log_eval.csv those of an evaluation
args.txt       the options, one `name: value` a line
metrics.jsonl  one JSON object per epoch
.lock          held by the run that writes there
events.*       TensorBoard: every loss term, learning rate, speed and metric, and pictures of what the network looks at

Only the main process prints and writes; the others have a logger that does nothing.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import platform
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from tqdm import tqdm

from ops.utils.errors import UserError, tell
from ops.utils.files import remove_leftovers, whole_file

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.jsonl"
Records = Sequence[Mapping[str, Any]]  # its lines
RUN_FILES = (
    "log*.csv", "args.txt", METRICS_FILE, "ckpt*.pth.tar", "events.out.tfevents.*", "curves.png", "per_class*.csv",
    "ablation*.csv", "policy_report.json", "early_exit*", "exit_logits*.npz",
)  # fmt: skip


class RunLogger:
    """Console, log file, metrics.jsonl and TensorBoard of a run; every method does nothing where `active` is False."""

    def __init__(self, folder: Path, active: bool = True) -> None:
        self.folder, self.active = Path(folder), active
        self.first_epoch: int | None = None
        self.log_name = "log.csv"
        self._early_lines: list[str] | None = []  # until the folder may be written to; then None
        self._writer = None
        self._lock: TextIO | None = None
        self._on_terminal = active and sys.stderr.isatty()

    def open(self, log_name: str = "log.csv", first_epoch: int | None = None, anew: bool = False) -> None:
        """Make the folder, keep other runs out of it until `close`, and write the lines so far to its file `log_name`.

        first_epoch: of a training; TensorBoard then hides what the folder has of this epoch and later ones. None: of
        no training, and everything stays.
        anew: move what an earlier run left there aside.
        Raises UserError where it cannot be written or is in use.
        """
        self.log_name, self.first_epoch = log_name, first_epoch
        if not self.active:
            return
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            remove_leftovers(self.folder)
            if anew and (aside := set_earlier_run_aside(self.folder)):
                self.line(f"An earlier run's files are now in {aside}")
            with self._log_file() as file:
                file.writelines(f"{line}\n" for line in self._early_lines or ())
        self._early_lines = None

    def line(self, text: str, progress: bool = False) -> None:
        """Print a line and append it to the log file; a line of `progress` is not printed beside a progress bar.

        The run goes on where its lines are not read any more: the log file has them.
        """
        if not self.active:
            return
        if not (progress and self._on_terminal):
            with tqdm.external_write_mode(file=sys.stdout):
                tell(text, sys.stdout)
        if self._early_lines is not None:
            self._early_lines.append(text)
            return
        with _writable(self.folder), self._log_file() as file:
            file.write(text + "\n")

    def options(self, options: Mapping[str, Any]) -> None:
        """Write args.txt."""
        if self.active:
            with _writable(self.folder):
                lines = [f"{name}: {value}\n" for name, value in sorted(options.items())]
                (self.folder / "args.txt").write_text("".join(lines), encoding="utf-8", errors="backslashreplace")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record, which holds `epoch`, to metrics.jsonl."""
        if self.active:
            with _writable(self.folder), open(self.folder / METRICS_FILE, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def forget_epochs_from(self, epoch: int) -> None:
        """Drop the records of an epoch and later ones from metrics.jsonl: they are about to be run again."""
        path = self.folder / METRICS_FILE
        if not self.active or not path.is_file():
            return
        kept = [line for line, record in _lines_and_records(path) if record["epoch"] < epoch]
        with whole_file(path) as file:
            file.write("".join(f"{line}\n" for line in kept).encode())

    def scalars(self, prefix: str, values: Mapping[str, float], step: int) -> None:
        """Add values to TensorBoard under prefix/name."""
        for name, value in values.items():
            self._add("scalar", f"{prefix}/{name}", value, step)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Add a picture to TensorBoard, in the figure's own resolution."""
        if self.active:
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
            self._add("image", name, pixels, step, dataformats="HWC")

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Add the distribution of some numbers to TensorBoard."""
        self._add("histogram", name, values, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """Add a text to TensorBoard."""
        self._add("text", name, markdown, step)

    def _add(self, what: str, *arguments: Any, **settings: Any) -> None:
        """Call TensorBoard's method for adding a "scalar", an "image", and so on."""
        if not self.active:
            return
        with _writable(self.folder):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import, and evaluation does not need it

                threading.excepthook = _quiet_about_tensorboard
                self._writer = SummaryWriter(str(self.folder), purge_step=self.first_epoch)
            getattr(self._writer, f"add_{what}")(*arguments, **settings)

    def progress(self, batches: Iterable, description: str) -> Iterable:
        """The batches, with a progress bar on a terminal."""
        if not self._on_terminal:
            return batches
        total = len(batches) if isinstance(batches, Sized) else None
        return tqdm(batches, desc=description, total=total, leave=False, dynamic_ncols=True)

    def close(self) -> None:
        """Flush TensorBoard, and let other runs into the folder."""
        if self._writer is not None:
            try:
                with _writable(self.folder):
                    self._writer.close()
            finally:
                threading.excepthook = threading.__excepthook__
        if self._lock is not None:
            self._lock.close()

    def _log_file(self) -> TextIO:
        return open(self.folder / self.log_name, "a", encoding="utf-8", errors="backslashreplace")


def read_records(path: Path) -> Records:
    """The epochs of a metrics.jsonl. A last line that was cut off is left out; UserError, with the line, for others."""
    return [record for _, record in _lines_and_records(path)]


def _lines_and_records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines, without their ends, beside what `read_records` says of them."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not valid UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); give the folder of a run") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append((line.rstrip(), _record(line)))
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{path}:{number}: not a record of an epoch; take the line out") from None
    return records


def _record(line: str) -> dict[str, Any]:
    record = json.loads(line)
    if not 0 <= record["epoch"] < 10**9:
        raise ValueError
    figures: dict[str, Any] = {"epoch": int(record["epoch"])}
    if "lr" in record:
        figures["lr"] = float(record["lr"])
    for part in {"train", "val"} & record.keys():
        figures[part] = {name: float(value) for name, value in record[part].items()}
    return record | figures


def _quiet_about_tensorboard(error: threading.ExceptHookArgs) -> None:
    """The thread that writes event files prints a traceback and raises the error again in the main thread, too."""
    if not type(error.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(error)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write logs to {folder}: {error.strerror or error} (--root_log)") from error


def _lock(folder: Path) -> TextIO:
    """The lock of a run's folder, held until it is closed. Raises UserError where another run holds it.

    It dies with this process alone: a record lock is not inherited by data workers, which may outlive it for seconds.
    """
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            file.seek(0)
            raise UserError(
                f"{folder} is in use by another run ({file.read(200).strip()}): wait for it, or give this one another "
                "--root_log"
            ) from error
        # Otherwise the file system knows no locks: then nothing keeps two runs apart.
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def set_earlier_run_aside(folder: Path) -> Path | None:
    """Move an earlier run's files into `folder/earlier_N`, so that a new run loses nothing; None if there are none."""
    found = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    if not any(path.name != "args.txt" for path in found):
        return None
    names = (folder / f"earlier_{number}" for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    with _writable(folder):
        aside.mkdir()
        for path in found:
            os.replace(path, aside / path.name)
    return aside
