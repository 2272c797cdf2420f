"""A checkpoint file, as published: what is in it, read without running code and checked.

A file is a dict with `epoch` (how many are done), `state_dict` (each key with a leading "module."), `optimizer`,
`best_acc1` (the best main metric, percent) and, from mixed precision, `scaler`. Ours adds what an exact resume needs
(`step`: steps done in the epoch after those; `losses` of these steps; `replaced_frames` in them, by the row of the
video; `videos`: their number in the training split; `random_states`; `lists`: digests of the splits and class names;
`metric`: which one `best_acc1` is of) and what helps to understand the file (`options`, `versions`).
"""

import math
import numbers
import pickle
import re
import warnings
import zipfile
from argparse import Namespace  # in which other programs save their options; it holds values and runs nothing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ops.utils.errors import UserError, first_line

FACTORS = ("scale", "growth_factor", "backoff_factor")  # of a gradient scaler
PREFIX = "module."  # what DistributedDataParallel puts before every name in published files


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file says, once it is known to be of the right types and ranges; None is for what is absent."""

    path: Path
    state_dict: dict[str, Tensor]  # names without a leading "module."
    epoch: int | None  # how many are done
    step: int  # steps done in the next one
    losses: tuple[list[float], int] | None  # sums over these steps, and their number
    replaced: Mapping[int, int]  # frames replaced in these steps, by the row of the video
    best: float | None  # the best main metric, percent
    momenta: list[Tensor | None] | None  # of each parameter of the optimizer, in its order
    scaler: Mapping[str, float] | None
    videos: int | None  # in the training split
    random_states: tuple[Tensor, ...]  # PyTorch's, of every process
    options: Mapping[str, Any]
    metric: str | None  # which one `best` is of, by its name in an evaluation
    lists: Mapping[str, Any]  # digests of the splits and the class names


def read(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU without running any code in it.

    Raises UserError where the file is absent, is not a checkpoint, holds more than tensors and plain values, or says
    something that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    harmless = [*_harmless_numpy(), Namespace]
    try:
        _check_archive(path)
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch.load finds odd in a file; one line says it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except PermissionError as error:
        raise UserError(f"checkpoint {path} cannot be read ({error.strerror}); check its permissions") from error
    except Exception as error:  # unpicklers raise a dozen types on damaged bytes, IndexError and MemoryError among them
        raise UserError(f"{path} is not a checkpoint that can be read safely: {_reason(error)}") from error
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of this program: it holds no `state_dict` of tensors")

    def field(name: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        value = content.get(name)
        if value is None:
            return default
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last of tensors of odd kinds
            raise UserError(f"checkpoint {path} is damaged: its `{name}` {first_line(error)}") from error

    return Checkpoint(
        path=path,
        state_dict=field("state_dict", _weights, {}),
        epoch=field("epoch", _count),
        step=field("step", _count, 0),
        losses=field("losses", _loss_totals),
        replaced=field("replaced_frames", _counts, {}),
        best=field("best_acc1", _finite),
        momenta=field("optimizer", _momenta),
        scaler=field("scaler", _scaler),
        videos=field("videos", _count),
        random_states=field("random_states", _random_states, ()),
        options=field("options", _plain_values, {}),
        metric=field("metric", _text),
        lists=field("lists", _plain_values, {}),
    )


def _weights(value: Any) -> dict[str, Tensor]:
    tensors = {key: _tensor(tensor, key) for key, tensor in _mapping(value).items()}
    return {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}


def _tensor(value: Any, name: object) -> Tensor:
    """A dense tensor on the CPU, of finite real numbers all of which are in the file."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise ValueError(f"holds something else than a plain tensor for {name}")
    if value.is_complex() or value.is_quantized or value.nbytes > value.untyped_storage().nbytes():
        raise ValueError(f"holds no plain tensor of {list(value.shape)} real numbers for {name}")
    if not value.isfinite().all():
        raise ValueError(f"holds numbers that are not finite, first in {name} (or its training has diverged)")
    return value.detach()


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= value < 2**53:
        raise ValueError(f"is {value!r:.60}, not a whole number from 0")
    return int(value)


def _counts(value: Any) -> Mapping[int, int]:
    """Numbers by number, which an int32 holds."""
    if not isinstance(value, Mapping) or not all(_count(number) < 2**31 for pair in value.items() for number in pair):
        raise ValueError("holds no whole numbers by number")
    return value


def _finite(value: Any) -> float:
    """A number, which published files have as a tensor or of NumPy, too."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = _tensor(value, "a number").item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not -math.inf < value < math.inf:
        raise ValueError(f"is {value!r:.60}, not a finite number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {value!r:.60}, not a name")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("holds no values by name")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("is no list")
    return value


def _plain_values(value: Any) -> Mapping[str, Any]:
    for name, option in _mapping(value).items():
        for part in option if isinstance(option, (list, tuple)) else (option,):
            if not isinstance(part, (str, bool, int, float, type(None))):
                raise ValueError(f"holds something else than a plain value for {name}")
    return value


def _momenta(value: Any) -> list[Tensor | None] | None:
    if not _mapping(value):  # of a checkpoint that was stripped of it
        return None
    groups, states = _mapping(value).get("param_groups"), value.get("state")
    if not isinstance(groups, (list, tuple)) or not isinstance(states, Mapping):
        raise ValueError("holds no state of an optimizer")
    parameters = [number for group in groups for number in _list(_mapping(group).get("params"))]
    return [_momentum(states.get(_count(number)), number) for number in parameters]


def _momentum(value: Any, number: int) -> Tensor | None:
    momentum = None if value is None else _mapping(value).get("momentum_buffer")
    return None if momentum is None else _tensor(momentum, f"parameter {number}")


def _scaler(value: Any) -> Mapping[str, float]:
    factors = {name: _finite(value.get(name)) for name in _mapping(value) and FACTORS}
    for name, factor in factors.items():
        if not 0 < factor < 1e38:  # float32 can hold
            raise ValueError(f"has a {name} of {factor}")
    for name in value and ("growth_interval", "_growth_tracker"):
        if _count(value.get(name)) >= 2**31:
            raise ValueError(f"has a {name} of {value[name]}")
    return dict(value) | factors  # as floats: PyTorch takes no large whole number for them


def _loss_totals(value: Any) -> tuple[list[float], int]:
    sums, steps = _list(value)
    return [_finite(total) for total in _list(sums)], _count(steps)


def _random_states(value: Any) -> tuple[Tensor, ...]:
    for state in _list(value):
        if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
            raise ValueError("holds something else than states of PyTorch's generator")
    return tuple(value)


def _check_archive(path: Path) -> None:
    """Raise UserError where a checksum is wrong, which torch.load does not look at, and ValueError where the file would
    unpack to more than its own size: torch.save packs nothing, so that is not its work."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        if damaged := archive.testzip():
            raise UserError(f"{path} is damaged: the checksum of {damaged} in it is wrong; copy or download it again")


def _harmless_numpy() -> list:
    """What NumPy numbers in a file are made of: some versions of the published code saved their best metric so."""
    numeric = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]
    scalar, _ = np.float64(0).__reduce__()  # is in `numpy.core` before NumPy 2, in `numpy._core` since
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *numeric]


def _reason(error: Exception) -> str:
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it wants to run code on loading, which is refused ({named.group(1)})"
    if isinstance(error, (pickle.UnpicklingError, EOFError, KeyError)) or "PytorchStreamReader" in str(error):
        return "it is damaged or cut short, or torch.save did not write it"
    return first_line(error)[:200]
