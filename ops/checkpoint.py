"""Checkpoint files: published layout and names, written whole or not at all, read without running code.

A file is a dict with `epoch` (how many are done), `state_dict` (each key with a leading "module."), `optimizer`,
`best_acc1` (the best main metric, percent) and, from mixed precision, `scaler`. Ours adds what an exact resume needs
(`step`: steps done in the epoch after those; `losses` of these steps; `videos`: their number in the training split;
`random_states`) and what helps to understand the file (`options`, `versions`).
"""

import argparse
import contextlib
import math
import numbers
import os
import pickle
import platform
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ops.engine import TrainingState
from ops.loss_history import NAMES
from ops.utils import distributed
from ops.utils.errors import UserError

LAST, BEST = "ckpt.pth.tar", "ckpt.best.pth.tar"
BESIDE = ".writing"  # ends the names of files that are being written
PREFIX = "module."  # what DistributedDataParallel puts before every name in published files


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says, once it is known to be of the right types and ranges; None is for what is absent."""

    path: Path
    state_dict: dict[str, Tensor]  # names without a leading "module."
    epoch: int | None  # how many are done
    step: int  # steps done in the next one
    losses: tuple[list[float], int] | None  # sums over these steps, and their number
    best: float | None  # the best main metric, percent
    optimizer: Mapping[str, Any] | None
    scaler: Mapping[str, Any] | None
    videos: int | None  # in the training split
    random_states: tuple[Tensor, ...]  # PyTorch's, of every process
    options: Mapping[str, Any]


def content_of(state: TrainingState, options: Mapping[str, Any], videos: int) -> dict[str, Any]:
    """What the checkpoint of a training holds; all processes call this. videos: in the training split."""
    random_states = distributed.gather_objects(torch.get_rng_state())
    content = {
        "epoch": state.epoch,
        "step": state.step,
        "losses": state.losses,
        "state_dict": {PREFIX + key: value.contiguous() for key, value in state.model.state_dict().items()},
        "optimizer": _contiguous(state.optimizer.state_dict()),
        "best_acc1": state.best or 0.0,
        "options": dict(options),
        "videos": videos,
        "random_states": random_states,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
    }
    if state.scaler.is_enabled():
        content["scaler"] = state.scaler.state_dict()
    return content


def _contiguous(optimizer_state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with momentum in the default memory layout, as published, whichever the parameters have."""
    momenta = {
        number: {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for number, entry in optimizer_state["state"].items()
    }
    return {**optimizer_state, "state": momenta}


def save(checkpoint: Mapping[str, Any], path: Path, keep: int = 0) -> None:
    """Write beside, flush to disk, rename: at no moment is there half a file, or none, under `path`.

    keep: how many older files stay as ckpt.1.pth.tar (the one before), ckpt.2.pth.tar, ...
    Raises UserError when it cannot be written; what was there before stays.
    """
    beside = path.with_name(f".{path.name}{BESIDE}")
    try:
        with open(beside, "wb") as file:
            torch.save(dict(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        _keep_older(path, keep)
        os.replace(beside, path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}; the checkpoint before stays") from error


def older(folder: Path, number: int) -> Path:
    """Where the checkpoint that is `number` saves older than the last one is kept."""
    return folder / f"ckpt.{number}.pth.tar"


def _keep_older(path: Path, keep: int) -> None:
    if keep == 0 or not path.exists():
        return
    for number in range(keep, 1, -1):
        if older(path.parent, number - 1).exists():
            os.replace(older(path.parent, number - 1), older(path.parent, number))
    link = path.with_name(f".{path.name}.older{BESIDE}")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)  # the file keeps its own name until the new one takes it
    except OSError:  # no hard links on this file system
        shutil.copyfile(path, link)
    os.replace(link, older(path.parent, 1))


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> list[str]:
    """Remove what a killed write left behind; returns the names."""
    names = [path.name for path in folder.glob(f".*{BESIDE}")]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return names


def find(wanted: str, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `--resume` means, or None to start from the beginning; and what was wrong with newer ones.

    wanted: "auto" is the newest one in the run's folder that can be read, if there is any; otherwise a file, or "".
    Raises UserError where the file cannot be read, and where there are some in the folder and none can be read.
    """
    if wanted != "auto":
        return (read(Path(wanted)) if wanted else None), []
    numbered = sorted(folder.glob("ckpt.[0-9]*.pth.tar"), key=lambda path: int(path.name.split(".")[1]))
    problems = []
    for path in (folder / LAST, *numbered, folder / BEST):
        if not path.exists():
            continue
        try:
            return read(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}")
    return None, []


def read(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU without running any code in it.

    Raises UserError where the file is absent, is not a checkpoint, holds more than tensors and plain values, or says
    something that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(_harmless_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint that can be read safely: {_reason(error)}") from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of this program: it holds no `state_dict` of tensors")

    def field(name: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        value = content.get(name)
        if value is None:
            return default
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"checkpoint {path} is damaged: its `{name}` {error}") from error

    return Checkpoint(
        path=path,
        state_dict=field("state_dict", _weights, {}),
        epoch=field("epoch", _count),
        step=field("step", _count, 0),
        losses=field("losses", _loss_totals),
        best=field("best_acc1", _finite),
        optimizer=field("optimizer", _mapping),
        scaler=field("scaler", _scaler),
        videos=field("videos", _count),
        random_states=field("random_states", _random_states, ()),
        options=field("options", _plain_values, {}),
    )


def _weights(value: Any) -> dict[str, Tensor]:
    for key, tensor in _mapping(value).items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise ValueError(f"holds something else than a plain tensor for {key}")
    return {key.removeprefix(PREFIX): tensor for key, tensor in value.items()}


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= value < 2**53:
        raise ValueError(f"is {value!r:.60}, not a whole number from 0")
    return int(value)


def _finite(value: Any) -> float:
    number = float(value)  # published files have it as a tensor or a number of NumPy too
    if isinstance(value, (str, bytes)) or not math.isfinite(number):
        raise ValueError(f"is {value!r:.60}, not a finite number")
    return number


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("holds no values by name")
    return value


def _plain_values(value: Any) -> Mapping[str, Any]:
    for name, option in _mapping(value).items():
        for part in option if isinstance(option, (list, tuple)) else (option,):
            if not isinstance(part, (str, bool, int, float, type(None))):
                raise ValueError(f"holds something else than a plain value for {name}")
    return value


def _scaler(value: Any) -> Mapping[str, Any]:
    for name, number in _mapping(value).items():
        if _finite(number) < 0:
            raise ValueError(f"has a negative {name}")
    return value


def _loss_totals(value: Any) -> tuple[list[float], int]:
    sums, steps = value
    if len(sums) > len(NAMES):
        raise ValueError(f"holds {len(sums)} figures, of which this program knows {len(NAMES)}")
    return [_finite(total) for total in sums], _count(steps)


def _random_states(value: Any) -> tuple[Tensor, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("is no list")
    for state in value:
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError("holds something else than states of PyTorch's generator")
    return tuple(value)


def best_metric(folder: Path) -> float | None:
    """The metric of the best checkpoint in a run's folder, percent; None where there is none that can be read."""
    try:
        return read(folder / BEST).best if (folder / BEST).exists() else None
    except UserError:
        return None


def restore(state: TrainingState, found: Checkpoint, options: argparse.Namespace, videos: int) -> None:
    """Go on where a checkpoint stopped: weights, optimizer, scaler, place in the epoch, best metric, random state.

    videos: in the training split now. Raises UserError where the file does not fit the model or holds weights only, and
    where it stands in an epoch that these options or videos cannot finish.
    """
    path = found.path
    if found.optimizer is None or found.epoch is None:
        raise UserError(f"checkpoint {path} holds weights only: start from them with --init_from")
    load_model(state.model, found.state_dict, path)
    load_optimizer(state.optimizer, found.optimizer, path)
    if state.scaler.is_enabled() and found.scaler:
        try:
            state.scaler.load_state_dict(dict(found.scaler))
        except KeyError as error:
            raise UserError(f"checkpoint {path} is damaged: its `scaler` lacks {error}") from error
    state.epoch, state.step, state.losses, state.resumed = found.epoch, found.step, found.losses, True
    state.best = found.best or None  # 0 stands for no evaluation yet
    if distributed.rank() < len(found.random_states):
        try:
            torch.set_rng_state(found.random_states[distributed.rank()])
        except RuntimeError as error:
            raise UserError(f"checkpoint {path} is damaged: its `random_states` are not PyTorch's") from error
    if not found.step:
        return
    if found.videos not in (None, videos):
        raise UserError(
            f"checkpoint {path} stands in the middle of an epoch of {found.videos} videos, but the training split has "
            f"{videos} now; restore the split file and its frames (see --skip_missing), or take a checkpoint from the "
            "end of an epoch"
        )
    before = found.options
    changed = [name for name in ("batch_size", "seed") if name in before and before[name] != getattr(options, name)]
    if changed:
        wanted = " ".join(f"--{name} {before[name]}" for name in changed)
        raise UserError(
            f"checkpoint {path} stands in the middle of an epoch, which can only be finished with {wanted}; "
            "use that, or a checkpoint from the end of an epoch"
        )


def load_model(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load strictly; UserError with the names and both shapes where something is missing, extra or of another size."""
    own = model.state_dict()
    problems = [f"{key} is missing" for key in own if key not in state]
    problems += [f"{key} is not known to the model" for key in state if key not in own]
    problems += [
        f"{key} is {list(state[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"checkpoint {path} does not fit the model that the options describe "
            f"(classes, segments, hidden sizes, glance network): {'; '.join(problems[:5])}{more}"
        )
    infinite = [key for key in own if not state[key].isfinite().all()]
    if infinite:
        raise UserError(
            f"checkpoint {path} is damaged, or its training has diverged: {len(infinite)} of its {len(own)} tensors "
            f"hold numbers that are not finite, first {infinite[0]}"
        )
    model.load_state_dict(dict(state))


def load_for_fine_tuning(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Take the weights that fit and leave the others as they are; returns the names of those that it leaves.

    Heads and policies may differ in size (other classes, other numbers of steps). UserError where the backbones do
    not fit: that is a checkpoint of another model.
    """
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    left = [key for key in own if key not in fitting]
    backbones = [key for key in left if key.startswith(("global_CNN.", "local_CNN."))]
    if backbones:
        raise UserError(
            f"checkpoint {path} has other backbones than the model (first: {backbones[0]}), "
            "so it cannot be fine-tuned; check --glance_arch"
        )
    model.load_state_dict(fitting, strict=False)
    return left


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], path: Path) -> None:
    """Momentum buffers by the number of the parameter, as published; rates and ratios stay those of the options.

    UserError where the numbers or shapes of the parameters differ.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        momenta = {number: value.get("momentum_buffer") for number, value in state["state"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"checkpoint {path} holds no optimizer state that can be resumed: {error!r}") from error
    if not all(isinstance(number, int) for number in numbers):
        raise UserError(f"checkpoint {path} is damaged: its optimizer state does not number the parameters")
    if len(numbers) != len(parameters):
        raise UserError(f"the optimizer in {path} has {len(numbers)} parameters, the model {len(parameters)}")
    for number, parameter in zip(numbers, parameters, strict=True):
        momentum = momenta.get(number)
        if momentum is None:
            continue
        if not isinstance(momentum, Tensor) or momentum.layout != torch.strided or momentum.device.type != "cpu":
            raise UserError(f"checkpoint {path} is damaged: the momentum of parameter {number} is no plain tensor")
        if momentum.shape != parameter.shape:
            raise UserError(
                f"the optimizer in {path} keeps {list(momentum.shape)} for parameter {number}, "
                f"which is {list(parameter.shape)} in the model"
            )
        # In the parameter's own memory layout: fused SGD goes through both as if they were flat.
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)


def _check_archive(path: Path) -> None:
    """Raise UserError where a checksum is wrong, which torch.load does not look at, or where the file would unpack to
    more than its own size: torch.save packs nothing, so that is not its work."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            damaged = archive.testzip() if unpacked <= path.stat().st_size else None
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise UserError(f"{path} is not a checkpoint that can be read safely: {_reason(error)}") from error
    if unpacked > path.stat().st_size:
        raise UserError(f"{path} is not a checkpoint that can be read safely: it would unpack to {unpacked:,} bytes")
    if damaged is not None:
        raise UserError(f"{path} is damaged: the checksum of {damaged} in it is wrong; copy or download it again")


def _harmless_numpy() -> list:
    """What NumPy numbers in a file are made of: some versions of the published code saved their best metric so."""
    numeric = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    core = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *numeric]


def _reason(error: Exception) -> str:
    text = str(error)
    if named := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it wants to run code on loading, which is refused ({named.group(1)})"
    if isinstance(error, (pickle.UnpicklingError, EOFError, KeyError)) or "PytorchStreamReader" in text:
        return "it is damaged or cut short, or torch.save did not write it"
    return (text.splitlines() or [type(error).__name__])[0][:200]
