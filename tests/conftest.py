"""What several test files share: reference weights, small networks and datasets, and running the entry scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # said before torch is loaded: test runs share the cores
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import pytest
import torch

from models.uni_adafocus import UniAdaFocus
from ops.errors import run_entry
from tests.reference import recipe

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference"

# The smallest settings that exercise everything; the options of the entry scripts say the same.
SMALL = {"num_segments": 6, "num_glance_segments": 3, "num_focus_segments": 2, "patch_size": 32, "input_size": 64}
SMALL_OPTIONS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
SMALL_OPTIONS += ["--pretrained", "none", "--batch_size", "2", "--workers", "0", "--print-freq", "1"]


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
    """The state dict that the reference figures were made with, for a model of any size."""
    layout = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: torch.from_numpy(np.asarray(value)) for name, value in recipe.weights(layout).items()}


def reference_clips(names: Sequence[str], frames: int) -> torch.Tensor:
    """Normalised clips [B, frames, 3, 224, 224] of the reference figures."""
    return torch.stack([torch.from_numpy(recipe.clip(str(name), frames)).view(frames, 3, 224, 224) for name in names])


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of these tests need not survive a power cut; what a killed process leaves is tested without this."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def small_model() -> UniAdaFocus:
    """A network of 4 classes in the smallest settings, with fixed random weights."""
    torch.manual_seed(0)
    return UniAdaFocus(4, **SMALL)


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


def the_error(stderr: str) -> str:
    """The one line that a wrong call ends with; there must be nothing else on stderr."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), stderr
    return lines[0]
