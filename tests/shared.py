"""What several test files share: reference weights, small networks and datasets, and running the entry scripts."""

import copy
import functools
import json
import multiprocessing
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from models.uni_adafocus import Output, UniAdaFocus
from ops.utils import distributed
from ops.utils.errors import run_entry
from tests import thin
from tests.reference import recipe

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference"

# The smallest settings that exercise everything; the options of the entry scripts say the same.
SMALL = {"num_segments": 6, "num_glance_segments": 3, "num_focus_segments": 2, "patch_size": 32, "input_size": 64}
SMALL_OPTIONS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
SMALL_OPTIONS += ["--pretrained", "none", "--batch_size", "2", "--workers", "0", "--print-freq", "1"]
IN_FORKS = ["--run-path", "--start-method=fork"]  # PyTorch's launchers start no Python: forks of theirs run the script
THIN = ["-m", "tests.thin"]  # before the name of a script, for a process: as the fixtures thin_networks and no_pictures

# What is said of a checkpoint named by 300 x: to Python from 3.14 on, nothing is there.
TOO_LONG = "File name too long: xxx" if sys.version_info < (3, 14) else "xxx does not exist"


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """PyTorch computes on that many threads, and afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reference_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict that the reference figures were made with, for a model of any size. The tensors are shared."""
    return dict(_reference_weights(tuple((name, tuple(value.shape)) for name, value in model.state_dict().items())))


def thin_reference_model(num_classes: int, **sizes: object) -> UniAdaFocus:
    """A thin network in evaluation mode with `reference_weights`; `sizes` are the arguments of `UniAdaFocus`."""
    with thin.thin_networks():
        model = UniAdaFocus(num_classes, **sizes)
    model.load_state_dict(reference_weights(model))
    return model.eval()


@functools.lru_cache(maxsize=2)  # drawing 43 million numbers takes a while
def _reference_weights(layout: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in recipe.weights(dict(layout)).items()}


def reference_clips(names: Sequence[str], frames: int) -> torch.Tensor:
    """Normalised clips [B, frames, 3, 224, 224] of the reference figures."""
    return torch.stack([torch.from_numpy(recipe.clip(str(name), frames)).view(frames, 3, 224, 224) for name in names])


def random_output(seed: int, batch: int = 2, glance: int = 3, focus: int = 2, classes: int = 5) -> Output:
    """What a network might say of `batch` videos; the same seed gives the same."""
    generator = torch.Generator().manual_seed(seed)

    def logits(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return Output(
        step_logits=logits(batch, glance + focus, classes),
        glance_logits=logits(batch, glance, classes),
        focus_logits=logits(batch, focus, classes),
        temporal_logits=logits(batch, classes),
        spatial_logits=logits(batch, classes),
        frame_weights=torch.softmax(logits(batch, glance), dim=1),
        glance_actions=torch.sigmoid(logits(batch, glance, 4)),
        focus_indices=torch.arange(focus).expand(batch, -1),
    )


def replace_cudnn(patch: pytest.MonkeyPatch) -> None:
    """Put stand-ins, for the CPU and for fake tensors, in the places of cuDNN's convolutions with what follows them."""

    def with_relu(images: torch.Tensor, weight: torch.Tensor, *bias_and_place: object) -> torch.Tensor:
        return nn.functional.conv2d(images, weight, *bias_and_place).relu()

    def with_shortcut(
        images: torch.Tensor, weight: torch.Tensor, shortcut: torch.Tensor, alpha: float, *bias_and_place: object
    ) -> torch.Tensor:
        return (nn.functional.conv2d(images, weight, *bias_and_place) + alpha * shortcut).relu()

    patch.setattr(torch, "cudnn_convolution_relu", with_relu)
    patch.setattr(torch, "cudnn_convolution_add_relu", with_shortcut)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of these tests need not survive a power cut; what a killed process leaves is tested without this."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def _small_model() -> UniAdaFocus:
    torch.manual_seed(0)
    return UniAdaFocus(4, **SMALL)


@pytest.fixture
def small_model(_small_model: UniAdaFocus) -> UniAdaFocus:
    """A network of 4 classes in the smallest settings, with fixed random weights."""
    torch.manual_seed(0)
    return copy.deepcopy(_small_model)


@pytest.fixture
def thin_networks() -> Iterator[None]:
    """Networks that are built in the test are thin; fixtures of a wider scope say `with thin_networks()` themselves."""
    with thin.thin_networks():
        yield


@pytest.fixture
def thin_model(thin_networks: None) -> UniAdaFocus:
    """As `small_model`, of thin networks."""
    torch.manual_seed(0)
    return UniAdaFocus(4, **SMALL)


@pytest.fixture
def no_pictures() -> Iterator[None]:
    """Runs draw nothing and keep no TensorBoard log."""
    with thin.no_pictures():
        yield


@pytest.fixture(scope="session")
def train_step() -> dict:
    """The reference training step."""
    return json.loads((REFERENCE / "train_step.json").read_text())


def write_frames(folder: Path, count: int, seed: int, template: str = "image_{:05d}.jpg") -> None:
    """A video as a folder of small JPEG frames with a pattern of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    base = cv2.resize(rng.integers(0, 255, (4, 5, 3), np.uint8), (100, 80), interpolation=cv2.INTER_LINEAR)
    for number in range(1, count + 1):
        cv2.imwrite(str(folder / template.format(number)), np.roll(base, 3 * number, axis=1))


def write_dataset(
    folder: Path,
    train: Mapping[str, Sequence[int]],
    val: Mapping[str, Sequence[int]],
    classes: int = 4,
    separator: str = ",",
    names: Sequence[str] = ("classInd.txt", "train_split.txt", "val_split.txt"),
    frames: int = 8,
) -> Path:
    """A dataset folder: rows of the splits as {name: labels}, and frames for each name."""
    folder.mkdir()
    (folder / names[0]).write_text("".join(f"class {number}\n" for number in range(classes)))
    for split, rows in ((names[1], train), (names[2], val)):
        lines = [separator.join([name, str(frames), *map(str, labels)]) for name, labels in rows.items()]
        (folder / split).write_text("\n".join(lines) + "\n")
    for seed, name in enumerate(dict.fromkeys([*train, *val])):
        write_frames(folder / "frames" / name, frames, seed)
    return folder


def write_small_dataset(folder: Path) -> Path:
    """Four training and five validation videos of 4 classes, in the generic layout."""
    return write_dataset(folder, {f"train{n}": [n % 4] for n in range(4)}, {f"val{n}": [n % 4] for n in range(5)})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """`write_dataset` in a folder of the test."""
    return partial(write_dataset, tmp_path / "data")


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """The small dataset in a folder of the test."""
    return write_small_dataset(tmp_path / "data")


def run_script(
    *arguments: str, launcher: Sequence[str] = (), cwd: Path = ROOT, timeout: float = 240, check: bool = True
) -> subprocess.CompletedProcess:
    """Run `python [launcher] arguments` as a user would; with `check`, it must end well."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
    return done


def call(main: Callable[[Sequence[str]], int], *arguments: object) -> int:
    """Call an entry script's `main` in this process as its command would; returns the exit code."""
    with pytest.raises(SystemExit) as left:
        run_entry(lambda: main([str(argument) for argument in arguments]))
    return left.value.code


class Ended(NamedTuple):
    """What came of forked processes, as of one that `run_script` ran: the largest exit code, and all they printed."""

    returncode: int
    stdout: str
    stderr: str


def run_forked(*arguments: object, cwd: Path = ROOT, check: bool = True) -> Ended:
    """`python arguments` in a process that is forked from this one: seconds sooner than `run_script`, for commands that
    need no beginning of their own. What this process has imported and patched is there already."""
    return _ended([partial(_run_command, [str(argument) for argument in arguments], cwd)], check)


def _run_command(arguments: list[str], cwd: Path) -> None:
    os.chdir(cwd)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def call_together(
    main: Callable[[Sequence[str]], int | None], *arguments: object, check: bool = True, patience: float = 30
) -> Ended:
    """Call an entry script's `main` in two processes of one run, for which no launcher is needed.

    They are forked from this one, with all that it has imported and patched, and meet in a file.
    check: both must end well. patience: when one has failed, seconds that the other has to end by itself.
    """
    with tempfile.TemporaryDirectory() as folder:
        given = [str(argument) for argument in arguments]
        return _ended([partial(_take_part, rank, folder, main, given) for rank in range(2)], check, patience)


def _take_part(rank: int, folder: str, main: Callable[[Sequence[str]], int | None], arguments: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    distributed.MEETING_PLACE = f"file://{folder}/meeting?rank={rank}&world_size=2"
    run_entry(lambda: main(arguments))


def _ended(works: Sequence[Callable[[], None]], check: bool, patience: float = 0) -> Ended:
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        outputs = [[Path(folder) / f"{kind}{number}" for kind in ("out", "err")] for number in range(len(works))]
        processes = [
            context.Process(target=_print_to, args=(*files, work)) for files, work in zip(outputs, works, strict=True)
        ]
        for process in processes:
            process.start()
        given_up = time.monotonic() + 240
        while all(process.exitcode in (None, 0) for process in processes) and processes[0].exitcode != 0:
            assert time.monotonic() < given_up
            time.sleep(0.02)
        for process in processes:
            process.join(patience)
            process.kill()  # does nothing to one that has ended
            process.join()
        printed = ["".join(file.read_text() for file in files) for files in zip(*outputs, strict=True)]
    ended = Ended(max(abs(process.exitcode) for process in processes), *printed)
    if check:
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-5000:]
    return ended


def _print_to(out: Path, err: Path, work: Callable[[], None]) -> None:
    sys.stdout, sys.stderr = open(out, "w"), open(err, "w")  # noqa: SIM115
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    work()


def without_gloo(text: str) -> str:
    """What was printed but for a line that some releases of PyTorch print on standard output when processes meet."""
    return re.sub(r"^\[Gloo\].*\n", "", text, flags=re.MULTILINE)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def the_error(stderr: str) -> str:
    """The one line that a wrong call ends with; there must be nothing else on stderr."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]
