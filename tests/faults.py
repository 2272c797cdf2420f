"""The long version of the tests of faults: what is killed, stopped, filled up or changed loses nothing.

    make faults

Kills are made at every system call that can change a file, which needs strace; full disks need the right to mount a
small one. Each line says how many were tried and how many held; the exit code is 1 where one did not. It stands among
the tests since it trains their thin networks, and is none of them since it takes minutes.
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
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
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
from ops.early_exit.thresholds import Weights, read_thresholds
from ops.toy.dataset import ToySettings, make_toy_dataset
from ops.utils import distributed
from ops.utils.files import remove_leftovers
from ops.utils.logger import RunLogger
from ops.video.extraction import extract_videos
from ops.video.frame_folders import FrameSettings
from tests.environment import set_defaults
from tests.shared import SMALL, Ended, call_together, run_forked, thin_reference_model, write_small_dataset
from tests.test_resume import FOLDER, _weights, run_options
from tests.thin import no_pictures, thin_networks
from tests.videos import make_video

CALLS = (
    "openat,write,writev,pwrite64,ftruncate,fsync,fdatasync,close,rename,renameat,renameat2,link,linkat,symlink,unlink,"
    "unlinkat,mkdir,mkdirat,rmdir,sendfile,copy_file_range,chmod,fchmod"
)
TOY = ToySettings(num_train=2, num_val=2, num_classes=2, frames=3, height=32, width=32)
HASH = "a" * 64


def traced(work: Callable[[], None], kill: tuple[str, int] | None = None) -> list[str]:
    """Do the work in a process of its own, killed when it makes a system call for the n-th time; the calls it made."""
    waiting, go = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(go)
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1))  # PR_SET_PTRACER: any process may trace this one
        os.read(waiting, 1)
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    with tempfile.NamedTemporaryFile("r") as calls:
        command = ["strace", "-p", str(process), "-o", calls.name, "-e", f"trace={CALLS}"]
        command += ["-e", f"inject={kill[0]}:signal=KILL:when={kill[1]}"] if kill else []
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert "attached" in tracer.stderr.readline()
        os.close(go)
        assert os.waitpid(process, 0)[1] in (0, signal.SIGKILL)  # 0: it made fewer calls this time
        tracer.communicate()
        os.close(waiting)
        return re.findall(r"^(\w+)\(", calls.read(), flags=re.MULTILINE)


def kills(
    folder: Path, prepare: Callable[[Path], None], work: Callable[[Path], None], check: Callable[[Path], bool]
) -> Iterator[bool]:
    """Whether `check` holds after a kill at each system call of the work, each in a folder that was prepared alike."""

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        prepare(folder)

    fresh()
    for name, count in Counter(traced(lambda: work(folder))).items():
        for number in range(1, count + 1):
            fresh()
            traced(lambda: work(folder), (name, number))
            yield check(folder)


class Checkpoints:
    """Saves of numbered checkpoints: two of each kind lie there when the third is killed."""

    def save(self, folder: Path, names: tuple[str, ...], number: float = 3.0) -> None:
        content = {"state_dict": {"number": torch.full((5000,), number)}, "best_acc1": number}
        for name in names:
            checkpoint.save(content, folder / name, keep=2 if name == checkpoint.LAST else 0)

    def prepare(self, folder: Path) -> None:
        for number in (1.0, 2.0):
            self.save(folder, (checkpoint.BEST, checkpoint.LAST), number)

    def hold(self, folder: Path) -> bool:
        found, problems = checkpoint.find("auto", folder)
        whole = [checkpoint.read(path).best for path in folder.glob("ckpt*")]
        remove_leftovers(folder)
        kept = found.best in (2, 3) and checkpoint.best_in(folder, "mAP").best in (2, 3) and len(whole) >= 3
        return kept and not problems and all(path.name.startswith("ckpt.") for path in folder.iterdir())


class EarlyExit:
    """The files of an early-exit evaluation of random logits."""

    def __init__(self, data: Path) -> None:
        config = get_dataset("mine", data)
        self.splits = {name: VideoDataset(config, name, 6, 64, training=False) for name in ("train", "val")}
        self.model = thin_reference_model(4, **SMALL)
        self.values = {name: torch.randn(len(split), 3, 4) for name, split in self.splits.items()}
        self.curves = compute_curves(*self.values.values(), self.splits["val"].labels, [1.0, 2.0, 3.0], "accuracy", 0)

    def keep(self, folder: Path, name: str = "val") -> None:
        depends_on = logits.dependencies(self.model, self.splits[name], HASH, "float32")
        logits._write(folder / logits.FILE_NAME, self.splits[name], {"logits": self.values[name]}, depends_on)

    def logits_hold(self, folder: Path) -> bool:
        with np.load(folder / logits.FILE_NAME) as file:
            found = {name: file[f"{name}_logits"] for name in self.splits if f"{name}_logits" in file.files}
        return "train" in found and all(np.array_equal(found[name], self.values[name].numpy()) for name in found)

    def report(self, folder: Path) -> None:
        options = Namespace(calibrate_on="train", dataset="mine", glance_arch="thin")
        log = RunLogger(folder)
        log.open("log_eval.csv")
        run.report(Namespace(options=options, log=log), self.curves, self.model, Weights(folder, HASH))
        log.close()

    def files_hold(self, folder: Path) -> bool:
        read = {
            ".csv": lambda path: len(path.read_text().splitlines()) == 20,
            ".json": lambda path: len(read_thresholds(path, 19, self.model, HASH)[0]) == 3,
            ".png": lambda path: Image.open(path).load() is not None,
        }
        whole = all(read[path.suffix](path) for path in folder.glob("early_exit*"))
        self.report(folder)
        return whole and len(list(folder.iterdir())) == 7  # two tables, two JSON, picture, log, lock


class TakenUpAgain:
    """Work that goes on where it was killed: in the end all is as made in one go, and before that no frame folder that
    counts as finished is not."""

    def __init__(self, work: Callable[[Path], None], home: Path) -> None:
        self.work = work
        home.mkdir()
        work(home)
        self.whole = self.tree(home)

    def tree(self, folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def holds(self, folder: Path) -> bool:
        before = {name for name in self.tree(folder) if name.endswith(".jpg") and "/." not in name}
        begun = {os.path.dirname(name) for name in before}
        unfinished = {name for name in self.whole if os.path.dirname(name) in begun} - before
        self.work(folder)
        return not unfinished and self.tree(folder) == self.whole


def signal_in(step: int, rank: str, number: int) -> contextlib.AbstractContextManager:
    """Training in which one process sends itself a signal at the end of a step (from 1, of two epochs of two)."""
    original = engine.train_steps

    def faulty(state: engine.TrainingState, *arguments: object, **keywords: object) -> Iterator[engine.Step]:
        for done in original(state, *arguments, **keywords):
            yield done
            if os.environ.get("RANK", "0") == rank and 2 * state.epoch + state.step == step:
                os.kill(os.getpid(), number)

    return patch.object(engine, "train_steps", faulty)


def alone(entry: object, *options: object) -> Ended:
    return run_forked(f"{entry.__name__}.py", *options, check=False)


def is_one_line(ended: Ended, word: str = "") -> bool:
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return ended.returncode == 2 and len(lines) == 1 and lines[0].startswith("error: ") and word in lines[0]


def lost_processes(home: Path, options: list) -> Iterator[bool]:
    """kill -9 and SIGSTOP of either of two processes after each step; the other names it, and the run goes on."""
    call_together(main.main, *options, "--root_log", home / "whole")
    for number, rank, step in itertools.product((signal.SIGKILL, signal.SIGSTOP), "01", (1, 2, 3)):
        root = home / f"{int(number)}_{rank}_{step}"
        given = [*options, "--root_log", root, "--save_freq", 1, "--resume", "auto", "--time_limit", 0.05]
        with signal_in(step, rank, number):
            patience = 60 if number == signal.SIGKILL else 1
            ended = call_together(main.main, *given, check=False, patience=patience)
        said = f"lost process {rank}" in ended.stderr and "Traceback" not in ended.stderr
        call_together(main.main, *given)
        yield said and torch.equal(_weights(home / "whole"), _weights(root))


def full_disks(home: Path, options: list) -> Iterator[bool]:
    """A training whose disk is full sooner or later ends in one line, and goes on when there is space."""
    alone(main, *options, "--root_log", home / "whole")
    for megabytes in (1, 8, 15, 22, 30, 38):
        disk = home / f"disk{megabytes}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", disk], check=True)
        try:
            given = [*options, "--root_log", disk, "--resume", "auto"]
            ended = alone(main, *given)
            subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
            done = alone(main, *given)
            same = done.returncode == 0 and torch.equal(_weights(home / "whole"), _weights(disk))
            yield same and is_one_line(ended, "No space left on device")
        finally:
            subprocess.run(["umount", disk], check=True)


def other_circumstances(home: Path, options: list, data: Path) -> Iterator[bool]:
    """From the middle and the end of an epoch with other processes, list, epochs, precision: done, or refused in one
    line; the checkpoint stays as it was."""
    with signal_in(1, "0", signal.SIGTERM):
        alone(main, *options, "--root_log", home / "middle")
    alone(main, *options, "--root_log", home / "end")
    shutil.copytree(data, home / "longer")
    with (home / "longer" / "train_split.txt").open("a") as file:
        file.write("val0,8,0\nval1,8,1\n")
    ways = {
        "processes": lambda *given: call_together(main.main, *given, check=False),
        "list": lambda *given: alone(main, *given, "--data_dir", home / "longer"),
        "epochs": lambda *given: alone(main, *given, "--epochs", 4),
        "precision": lambda *given: alone(main_semiAMP, *given, "--amp_scope", "all"),
    }
    for (what, way), name in itertools.product(ways.items(), ("middle", "end")):
        source = home / name / FOLDER / ("ckpt.pth.tar" if name == "middle" else "ckpt.1.pth.tar")
        before = source.read_bytes()
        ended = way(*options, "--root_log", home / f"{name}_{what}", "--resume", source)
        done = ended.returncode == 0 and "Done: best" in ended.stdout
        refused = (name, what) == ("middle", "list") and is_one_line(ended, "in the middle of an epoch")
        yield (done or refused) and source.read_bytes() == before


def try_all(home: Path) -> int:
    """Try everything in a folder; returns how many did not hold."""
    data, options = write_small_dataset(home / "data"), run_options(home / "data")
    for number in (1, 2):
        make_video(home / "videos" / f"{number}.mp4", 4)
    saves, files = Checkpoints(), EarlyExit(data)
    settings = FrameSettings(backend="opencv")
    extraction = TakenUpAgain(lambda folder: extract_videos(home / "videos", folder / "frames", settings), home / "one")
    toys = TakenUpAgain(lambda folder: make_toy_dataset(folder / "toy", TOY), home / "other")
    both = (checkpoint.BEST, checkpoint.LAST)
    killed = {
        "saves at the end of an epoch": (saves.prepare, lambda at: saves.save(at, both[1:]), saves.hold),
        "saves of a best one": (saves.prepare, lambda at: saves.save(at, both), saves.hold),
        "exit_logits.npz": (lambda at: files.keep(at, "train"), files.keep, files.logits_hold),
        "the early-exit files": (lambda at: None, files.report, files.files_hold),
        "extraction": (lambda at: None, extraction.work, extraction.holds),
        "the toy videos": (lambda at: None, toys.work, toys.holds),
    }
    traces, root = shutil.which("strace") is not None, os.geteuid() == 0
    tries = {f"killed at every system call: {name}": (traces, kills(home / "at", *how)) for name, how in killed.items()}
    tries["one of two processes: kill -9 and SIGSTOP"] = True, lost_processes(home / "lost", options)
    tries["full disks"] = root, full_disks(home, options)
    tries["resumed: other processes, list, epochs, precision"] = True, other_circumstances(home / "else", options, data)
    failed = 0
    for name, (possible, results) in tries.items():
        if not possible:
            print(f"{name}: not tried: strace is not installed, or this user may not mount a disk", flush=True)
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            outcomes = list(results)
        failed += outcomes.count(False)
        print(f"{name}: {len(outcomes)} tried / {outcomes.count(True)} held", flush=True)
    print(f"{failed} did not hold" if failed else "nothing lost")
    return failed


if __name__ == "__main__":
    set_defaults()
    distributed.PATIENCE = 1.0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, thin_networks(), no_pictures():
        sys.exit(try_all(Path(temporary)) > 0)
