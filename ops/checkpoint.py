"""Checkpoint files: published layout and names, written whole or not at all, read without running code.

A file is a dict with `epoch` (how many are done), `state_dict` (each key with a leading "module."), `optimizer`,
`best_acc1` (the best main metric, percent) and, from mixed precision, `scaler`; ours adds `options`.
"""

import contextlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ops.errors import UserError

LAST, BEST = "ckpt.pth.tar", "ckpt.best.pth.tar"
PREFIX = "module."  # what DistributedDataParallel puts before every name in published files


def checkpoint_dict(
    *, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, best: float, scaler: torch.amp.GradScaler,
    options: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What a checkpoint file holds; `epoch` is the number of epochs done."""
    checkpoint = {
        "epoch": epoch,
        "state_dict": {PREFIX + key: value for key, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "best_acc1": best,
        "options": dict(options),
    }
    if scaler.is_enabled():
        checkpoint["scaler"] = scaler.state_dict()
    return checkpoint


def save(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write beside, flush to disk, rename: at no moment is there half a file under `path`."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(dict(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; the checkpoint before stays") from error
    except RuntimeError as error:  # torch reports a full disk so
        raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}; the checkpoint before stays") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code in it; the names lose their leading "module.".

    Raises UserError where the file is absent, is not a checkpoint, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        with torch.serialization.safe_globals(_harmless_numpy()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not a checkpoint that can be read safely: {_reason(error)}") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a checkpoint of this program: it holds no `state_dict` of tensors")
    return {**checkpoint, "state_dict": {key.removeprefix(PREFIX): value for key, value in state.items()}}


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
    model.load_state_dict(dict(state))


def load_for_fine_tuning(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> list[str]:
    """Take the weights that fit and leave the others as they are; returns the names of tensors that start anew.

    Heads and policies may differ in size (other classes, other numbers of steps). UserError where the backbones do
    not fit: that is a checkpoint of another model.
    """
    own = model.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    anew = [key for key in own if key not in fitting]
    backbones = [key for key in anew if key.startswith(("global_CNN.", "local_CNN."))]
    if backbones:
        raise UserError(
            f"checkpoint {path} has other backbones than the model (first: {backbones[0]}), "
            "so it cannot be fine-tuned; check --glance_arch"
        )
    model.load_state_dict(fitting, strict=False)
    return anew


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
    if len(numbers) != len(parameters):
        raise UserError(f"the optimizer in {path} has {len(numbers)} parameters, the model {len(parameters)}")
    for number, parameter in zip(numbers, parameters, strict=True):
        momentum = momenta.get(number)
        if momentum is None:
            continue
        if momentum.shape != parameter.shape:
            raise UserError(
                f"the optimizer in {path} keeps {list(momentum.shape)} for parameter {number}, "
                f"which is {list(parameter.shape)} in the model"
            )
        optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device, copy=True)


def _harmless_numpy() -> list:
    """What NumPy numbers in a file are made of: some versions of the published code saved their best metric so."""
    numeric = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    core = getattr(np, "_core", None) or np.core
    scalar = core.multiarray.scalar
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *numeric]


def _reason(error: Exception) -> str:
    text = str(error)
    if "Unsupported" in text or "GLOBAL" in text:
        refused = next((line.strip() for line in text.splitlines() if "GLOBAL" in line), text.splitlines()[0])
        return f"it wants to run code on loading, which is refused ({refused[:200]})"
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
