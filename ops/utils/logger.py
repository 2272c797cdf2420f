"""What a run leaves behind in its folder, and what it prints.

log.csv        the console lines of training; log_eval.csv those of an evaluation
args.txt       the options, one `name: value` a line
metrics.jsonl  one JSON object per epoch
events.*       TensorBoard: every loss term, learning rate, speed and metric, and pictures of what the network looks at

Only the main process prints and writes; the others have a logger that does nothing.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ops.utils.errors import UserError
from ops.utils.files import whole_file

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

RUN_FILES = (
    "log*.csv", "args.txt", "metrics.jsonl", "ckpt*.pth.tar", "events.out.tfevents.*", "curves.png", "per_class*.csv",
    "ablation.csv", "policy_report.json", "early_exit*", "exit_logits.npz",
)  # fmt: skip


class RunLogger:
    """Console, log file, metrics.jsonl and TensorBoard of a run; every method does nothing where `active` is False."""

    def __init__(self, folder: Path, active: bool = True) -> None:
        self.folder, self.active = Path(folder), active
        self.first_epoch: int | None = None
        self.log_name = "log.csv"
        self._early_lines: list[str] | None = []  # until the folder may be written to; then None
        self._writer = None
        self._on_terminal = active and sys.stderr.isatty()

    def open(self, log_name: str = "log.csv", first_epoch: int | None = None) -> None:
        """Make the folder, and write the lines so far to its log file `log_name`.

        first_epoch: of a training; TensorBoard then hides what the folder has of this epoch and later ones. None: of
        no training, and everything stays.
        """
        self.log_name, self.first_epoch = log_name, first_epoch
        if not self.active:
            return
        with _writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._log_file() as file:
                file.writelines(f"{line}\n" for line in self._early_lines or ())
        self._early_lines = None

    def line(self, text: str, progress: bool = False) -> None:
        """Print a line and append it to the log file; a line of `progress` is not printed beside a progress bar."""
        if not self.active:
            return
        if not (progress and self._on_terminal):
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
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
                (self.folder / "args.txt").write_text("".join(lines), encoding="utf-8")

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Append one epoch's record, which holds `epoch`, to metrics.jsonl."""
        if self.active:
            with _writable(self.folder), open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def forget_epochs_from(self, epoch: int) -> None:
        """Drop the records of an epoch and later ones from metrics.jsonl: they are about to be run again."""
        path = self.folder / "metrics.jsonl"
        if not self.active or not path.is_file():
            return
        with _writable(self.folder):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] < epoch]
            with whole_file(path) as file:
                file.write("".join(kept).encode())

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
        """Flush TensorBoard."""
        if self._writer is not None:
            try:
                with _writable(self.folder):
                    self._writer.close()
            finally:
                threading.excepthook = threading.__excepthook__

    def _log_file(self):
        return open(self.folder / self.log_name, "a", encoding="utf-8")


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
