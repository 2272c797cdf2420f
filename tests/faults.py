"""The long version of the tests of faults: what is killed, stopped, filled up or changed loses nothing.

    make faults

Kills are made at every system call that can change a file, which needs strace; full disks need the right to mount a
small one. Each line ends with tried / held; the exit code is 1 where something did not hold. It stands here since it
trains the thin networks of the tests, and takes minutes, which the tests do not.
"""

import contextlib
import ctypes
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

import main
import main_semiAMP
from dataset_config import get_dataset
from ops import checkpoint, engine
from ops.data.dataset import VideoDataset
from ops.early_exit import logits, run
from ops.early_exit.curve import compute_curves
from ops.early_exit.thresholds import Weights, read_thresholds, result_file
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.utils import distributed
from ops.utils.files import remove_leftovers
from ops.utils.logger import RunLogger
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings
from tests.conftest import SMALL, Ended, call_together, run_forked, thin_reference_model, write_small_dataset
from tests.test_resume import FOLDER, _weights, run_options
from tests.thin import no_pictures, thin_networks
from tests.videos import make_video

CALLS = (
    "openat,write,writev,pwrite64,ftruncate,fsync,fdatasync,close,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
    "mkdir,mkdirat,rmdir,sendfile,copy_file_range,symlink,chmod,fchmod"
)
Check = Callable[[Path], bool]


def traced(work: Callable[[], None], kill: tuple[str, int] | None = None) -> list[str]:
    """Do the work in a process of its own, killed when it makes a system call for the n-th time; the calls it made."""
    waiting, go = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(go)
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER: any process may trace this one
        os.read(waiting, 1)
        with contextlib.suppress(BaseException), contextlib.redirect_stdout(io.StringIO()):
            work()
            os._exit(0)
        os._exit(1)
    with tempfile.NamedTemporaryFile("r") as calls:
        command = ["strace", "-p", str(process), "-o", calls.name, "-e", f"trace={CALLS}"]
        if kill:
            command += ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert "attached" in tracer.stderr.readline()
        os.close(go)
        assert os.waitpid(process, 0)[1] in (0, signal.SIGKILL)
        tracer.communicate()
        os.close(waiting)
        return re.findall(r"^(\w+)\(", calls.read(), flags=re.MULTILINE)


def kills(home: Path, prepare: Callable[[Path], None], work: Callable[[Path], None], holds: Check) -> Iterator[bool]:
    """Whether it holds, for a kill at each system call of the work, in a folder that was prepared alike."""

    def fresh() -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        prepare(home)

    fresh()
    counts = Counter(traced(lambda: work(home)))
    for name, count in counts.items():
        for number in range(1, count + 1):
            fresh()
            traced(lambda: work(home), (name, number))
            yield holds(home)


# ---- what is killed


def nothing(folder: Path) -> None:
    """There is nothing to prepare."""


def numbered(number: int) -> dict:
    return {"state_dict": {"number": torch.full((5000,), float(number))}, "best_acc1": float(number)}


def number_in(found: checkpoint.Checkpoint | None) -> float:
    return float(found.state_dict["number"][0]) if found else 0.0


def saved_before(folder: Path) -> None:
    for name in (checkpoint.LAST, checkpoint.BEST):
        for number in (1, 2):
            checkpoint.save(numbered(number), folder / name, keep=2 if name == checkpoint.LAST else 0)


def save_an_epoch(folder: Path) -> None:
    checkpoint.save(numbered(3), folder / checkpoint.LAST, keep=2)


def save_a_best(folder: Path) -> None:
    checkpoint.save(numbered(3), folder / checkpoint.BEST)
    save_an_epoch(folder)


def good_checkpoints(folder: Path) -> bool:
    found, problems = checkpoint.find("auto", folder)
    before = [number_in(checkpoint.read(path)) for path in folder.glob("ckpt.[0-9]*.pth.tar")]
    remove_leftovers(folder)
    left_over = [path for path in folder.iterdir() if not path.name.startswith("ckpt.")]
    best = checkpoint.best_metric(folder) or 0
    return number_in(found) in (2, 3) and best in (2, 3) and max(before) >= 1 and not problems and not left_over


class EarlyExit:
    """The files of an early-exit evaluation of random logits."""

    def __init__(self, data: Path) -> None:
        config = get_dataset("mine", data)
        self.splits = {name: VideoDataset(config, name, 6, 64, training=False) for name in ("train", "val")}
        self.model = thin_reference_model(4, **SMALL)
        self.values = {name: torch.randn(len(split), 3, 4) for name, split in self.splits.items()}
        self.curves = compute_curves(*self.values.values(), self.splits["val"].labels, [1.0, 2.0, 3.0], "accuracy", 0)

    def keep(self, folder: Path, name: str = "val") -> None:
        split = self.splits[name]
        depends_on = logits.dependencies(self.model, split, "a" * 64, "float32")
        logits._write(folder / logits.FILE_NAME, split, {"logits": self.values[name]}, depends_on)

    def holds_logits(self, folder: Path) -> bool:
        with np.load(folder / logits.FILE_NAME) as file:
            found = {name: file[f"{name}_logits"] for name in self.splits if f"{name}_logits" in file.files}
        whole = all(np.array_equal(found[name], self.values[name].numpy()) for name in found)
        return whole and "train" in found and list(folder.glob("exit*")) == [folder / logits.FILE_NAME]

    def report(self, folder: Path) -> None:
        options = SimpleNamespace(calibrate_on="train", dataset="mine", glance_arch="thin")
        log = RunLogger(folder)
        with no_pictures():
            run.report(SimpleNamespace(options=options, log=log), self.curves, self.model, Weights(folder, "a" * 64))

    def holds_report(self, folder: Path) -> bool:
        for path in folder.glob("early_exit*"):
            if path.suffix == ".json":
                assert len(read_thresholds(path, 19, self.model, "a" * 64)[0]) == 3
            elif path.suffix == ".csv":
                assert len(path.read_text().splitlines()) == 20
            else:
                Image.open(path).load()
        self.report(folder)
        return all(result_file(folder, name, kind).is_file() for name in self.curves.points for kind in ("csv", "json"))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def again_as_never_stopped(work: Callable[[Path], None], home: Path) -> Check:
    """What holds of work that is taken up again: finished parts are whole at once, and in the end all is as made in one
    go."""
    home.mkdir()
    work(home)
    whole = tree(home)

    def holds(folder: Path) -> bool:
        for frames in folder.rglob("image_00001.jpg"):
            if not any(part.startswith(".") for part in frames.relative_to(folder).parts):
                listed = {name for name in whole if Path(name).parent == frames.parent.relative_to(folder)}
                assert listed == {str(path.relative_to(folder)) for path in frames.parent.iterdir()}
        work(folder)
        return tree(folder) == whole

    return holds


# ---- whole runs


def fault_in(step: int, rank: str, number: int) -> contextlib.AbstractContextManager:
    """Training in which one process gets a signal at the end of a step of its own."""
    original = engine.train_steps

    def faulty(state: engine.TrainingState, *arguments: object, **keywords: object) -> Iterator[engine.Step]:
        for done in original(state, *arguments, **keywords):
            yield done
            if os.environ.get("RANK", "0") == rank and 2 * state.epoch + state.step == step:
                os.kill(os.getpid(), number)

    return patch.object(engine, "train_steps", faulty)


def one_line(ended: Ended, code: int = 2) -> bool:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return ended.returncode == code and len(lines) == 1 and lines[0].startswith("error: ")


def lost_processes(home: Path, options: list) -> Iterator[bool]:
    """kill -9 and SIGSTOP of either of two processes after each step; the other says so, and the run goes on."""
    call_together(main.main, *options, "--root_log", home / "whole")
    for number, rank, step in itertools.product((signal.SIGKILL, signal.SIGSTOP), "01", (1, 2, 3)):
        root = home / f"{int(number)}_{rank}_{step}"
        given = [*options, "--root_log", root, "--save_freq", 1, "--resume", "auto", "--time_limit", 0.05]
        with fault_in(step, rank, number):
            patience = 60 if number == signal.SIGKILL else 1
            ended = call_together(main.main, *given, check=False, patience=patience)
        said = f"lost process {rank}" in ended.stderr and "Traceback" not in ended.stderr
        call_together(main.main, *given)
        yield said and torch.equal(_weights(home / "whole"), _weights(root))


def alone(entry: object, *options: object) -> Ended:
    return run_forked(f"{entry.__name__}.py", *options, check=False)


def full_disks(home: Path, options: list) -> Iterator[bool]:
    """A training on a disk that is full sooner or later ends in one line, and goes on when there is space."""
    alone(main, *options, "--root_log", home / "whole")
    for megabytes in (1, 10, 20, 30, 40, 50):
        disk = home / f"disk{megabytes}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk], check=True)
        try:
            given = [*options, "--root_log", disk, "--resume", "auto"]
            ended = alone(main, *given)
            subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
            done = alone(main, *given)
            yield one_line(ended) and done.returncode == 0 and torch.equal(_weights(home / "whole"), _weights(disk))
        finally:
            subprocess.run(["umount", disk], check=True)


def other_circumstances(home: Path, options: list, data: Path) -> Iterator[bool]:
    """Checkpoints of the end and of the middle of an epoch, gone on from with other processes, list, epochs, precision:
    done, or refused in one line with the checkpoint as it was."""
    with fault_in(1, "0", signal.SIGTERM):
        alone(main, *options, "--root_log", home / "middle")
    alone(main, *options, "--root_log", home / "end")
    longer = home / "longer"
    shutil.copytree(data, longer)
    with (longer / "train_split.txt").open("a") as file:
        file.write("val0,8,0\nval1,8,1\n")
    ways = {
        "processes": lambda *given: call_together(main.main, *given, check=False),
        "list": lambda *given: alone(main, *given, "--data_dir", longer),
        "epochs": lambda *given: alone(main, *given, "--epochs", 4),
        "precision": lambda *given: alone(main_semiAMP, *given, "--amp_scope", "all"),
    }
    for (what, way), name in itertools.product(ways.items(), ("middle", "end")):
        source = home / name / FOLDER / ("ckpt.pth.tar" if name == "middle" else "ckpt.1.pth.tar")
        before = source.read_bytes()
        ended = way(*options, "--root_log", home / f"{name}_{what}", "--resume", source)
        refused = name == "middle" and what == "list"
        right = one_line(ended) if refused else ended.returncode == 0 and "Done: best" in ended.stdout
        yield right and source.read_bytes() == before


def main_of_faults() -> int:
    """Try everything; returns the exit code."""
    distributed.PATIENCE = 1.0
    torch.set_num_threads(1)
    settings = FrameSettings(backend="opencv")
    toy = ToySettings(num_train=2, num_val=2, num_classes=2, frames=3, height=32, width=32)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, thin_networks(), no_pictures():
        home = Path(temporary)
        data, options = write_small_dataset(home / "data"), run_options(home / "data")
        for number in (1, 2):
            make_video(home / "videos" / f"{number}.mp4", 4)
        files = EarlyExit(data)

        def extract(folder: Path) -> None:
            extract_videos(home / "videos", folder / "frames", settings)

        def make_toy(folder: Path) -> None:
            make_toy_dataset(folder / "toy", toy)

        (home / "disks").mkdir()
        here, remade = home / "here", again_as_never_stopped
        parts = {
            "a save at the end of an epoch": (saved_before, save_an_epoch, good_checkpoints),
            "a save of a best one": (saved_before, save_a_best, good_checkpoints),
            "exit_logits.npz": (lambda folder: files.keep(folder, "train"), files.keep, files.holds_logits),
            "the early-exit files": (nothing, files.report, files.holds_report),
            "extraction": (nothing, extract, remade(extract, home / "extracted")),
            "the toy videos": (nothing, make_toy, remade(make_toy, home / "toys")),
        }
        needs = {"kill": shutil.which("strace"), "full disk": os.geteuid() == 0}
        scenarios = {f"kill at every system call of {name}": kills(here, *part) for name, part in parts.items()}
        scenarios |= {
            "kill -9 and SIGSTOP of one of two processes": lost_processes(home / "lost", options),
            "full disk": full_disks(home / "disks", options),
            "resumed with other processes, list, epochs, precision": other_circumstances(home / "other", options, data),
        }
        for name, results in scenarios.items():
            if not needs.get(name.split(" at ")[0], True):
                print(f"{name}: cannot be tried here (kills need strace, full disks root)", flush=True)
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                outcomes = list(results)
            failed += outcomes.count(False)
            print(f"{name}: {len(outcomes)} tried / {outcomes.count(True)} held", flush=True)
    print("nothing lost" if not failed else f"{failed} did not hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main_of_faults())
