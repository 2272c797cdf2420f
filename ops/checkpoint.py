"""Checkpoints of a run: written whole or not at all, found again, and loaded into a model, an optimizer, a training.

`ops.utils.checkpoint_file` says what is in a file, and reads one.
"""

import argparse
import contextlib
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ops.engine import TrainingState
from ops.loss_history import NAMES
from ops.utils import distributed
from ops.utils.checkpoint_file import PREFIX, Checkpoint, read
from ops.utils.errors import UserError, first_line
from ops.utils.files import BESIDE

TRAINING_LIST = "training split"  # among the `lists` of a checkpoint
LAST, BEST = "ckpt.pth.tar", "ckpt.best.pth.tar"


def content_of(
    state: TrainingState,
    options: Mapping[str, Any],
    videos: int,
    lists: Mapping[str, str] | None = None,
    metric: str | None = None,
) -> dict[str, Any]:
    """What the checkpoint of a training holds; all processes call this.

    videos: in the training split. lists: digests of the splits and class names. metric: which one `state.best` is of.
    """
    random_states = distributed.gather_objects(torch.get_rng_state())
    optimizer = tree_map_only(Tensor, Tensor.contiguous, state.optimizer.state_dict())
    content = {
        "epoch": state.epoch,
        "step": state.step,
        "losses": state.losses,
        "replaced_frames": state.replaced,
        "state_dict": {PREFIX + key: value.contiguous() for key, value in state.model.state_dict().items()},
        "optimizer": optimizer,
        "best_acc1": state.best or 0.0,
        "metric": metric,
        "lists": dict(lists or {}),
        "options": dict(options),
        "videos": videos,
        "random_states": random_states,
        "versions": {"python": platform.python_version(), "torch": torch.__version__.split("+")[0]},
    }
    if state.scaler.is_enabled():
        content["scaler"] = state.scaler.state_dict()
    return content


def check_finite(content: Mapping[str, Any]) -> None:
    """Raise UserError where weights, statistics or momenta of `content_of` are not finite: nothing can go on from
    them."""
    leaves = tree_leaves([content["state_dict"], content["optimizer"]])
    if not all(leaf.isfinite().all() for leaf in leaves if isinstance(leaf, Tensor)):
        raise UserError(
            "training has diverged: the network's weights are not finite any more, and are not saved; the checkpoint "
            "before stays. Lower --lr"
        )


def save(checkpoint: Mapping[str, Any], path: Path, keep: int = 0) -> None:
    """Write beside, flush to disk, rename: at no moment is there half a file, or none, under `path`.

    keep: how many older files to shift: the present one becomes ckpt.1.pth.tar, that one ckpt.2.pth.tar, ... With 0 the
    present one is overwritten and the older ones are left alone. Files with numbers above `keep` are never removed.
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
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        cause: BaseException | None = error
        while cause and not isinstance(cause, OSError):  # on a full disk torch fails once more, with words of its own
            cause = cause.__context__
        reason = getattr(cause, "strerror", None) or first_line(error)
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


def find(wanted: str, folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `--resume` means, or None to start from the beginning; and what was wrong with newer ones.

    wanted: "auto" is the newest one in the run's folder that can be read, if there is any; otherwise a file, or "".
    Raises UserError where the file cannot be read, and where there are some in the folder and none can be read.
    """
    if wanted != "auto":
        return (read(Path(wanted)) if wanted else None), []
    numbers = sorted(int(number) for path in folder.glob("ckpt.*.pth.tar") if (number := path.name[5:-8]).isdecimal())
    problems = []
    for path in (folder / LAST, *(older(folder, number) for number in numbers), folder / BEST):
        if not path.exists():
            continue
        try:
            return read(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"no checkpoint in {folder} can be read: {'; '.join(problems)}")
    return None, []


def best_in(folder: Path, metric: str) -> Checkpoint | None:
    """The best checkpoint in a run's folder; None where there is none that can be read, and where it was chosen by
    another metric."""
    try:
        found = read(folder / BEST) if (folder / BEST).exists() else None
    except UserError:
        return None
    return found if found and found.best is not None and found.metric in (None, metric) else None


def restore(
    state: TrainingState,
    found: Checkpoint,
    options: argparse.Namespace,
    videos: int,
    lists: Mapping[str, str] | None = None,
    metric: str | None = None,
) -> list[str]:
    """Go on where a checkpoint stopped: weights, optimizer, scaler, place in the epoch, best metric, random state.

    videos, lists, metric: as for `content_of`, now. Returns what is other than it was, to be told. Raises UserError
    where the file does not fit the model or holds weights only, and where it stands in an epoch that these options or
    videos cannot finish.
    """
    path = found.path
    if found.momenta is None or found.epoch is None:
        raise UserError(f"checkpoint {path} holds weights only: start from them with --init_from")
    load_strictly(state.model, found.state_dict, path)
    load_optimizer(state.optimizer, found.momenta, path)
    if state.scaler.is_enabled() and found.scaler:
        state.scaler.load_state_dict(dict(found.scaler))
    if found.losses and len(found.losses[0]) > len(NAMES):
        raise UserError(f"checkpoint {path} is damaged: its `losses` are more than this program's {len(NAMES)}")
    state.epoch, state.step, state.losses, state.resumed_from = found.epoch, found.step, found.losses, path
    state.best = found.best or None  # 0 stands for no evaluation yet
    others = [name for name, digest in (lists or {}).items() if found.lists.get(name, digest) != digest]
    notes = [f"the {name} is another list" for name in others]
    if state.best is not None and found.metric not in (None, metric):
        notes.append(f"its best, {state.best:.3f}, is of {found.metric}: the best {metric} begins anew")
        state.best = None
    if distributed.rank() < len(found.random_states):
        try:
            torch.set_rng_state(found.random_states[distributed.rank()])
        except RuntimeError as error:
            raise UserError(f"checkpoint {path} is damaged: its `random_states` are not PyTorch's") from error
    if not found.step:
        return notes
    if found.videos not in (None, videos) or TRAINING_LIST in others:
        now = f"has {videos} now" if found.videos != videos else "lists others now"
        raise UserError(
            f"checkpoint {path} stands in the middle of an epoch of {found.videos} videos, but the training split "
            f"{now}; restore the split file and its frames (see --skip_missing), or take a checkpoint from the "
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
    if any(row >= videos for row in found.replaced):
        raise UserError(f"checkpoint {path} is damaged: its `replaced_frames` are of more than {videos} videos")
    state.replaced = dict(found.replaced)
    if found.step > videos // options.batch_size:
        raise UserError(
            f"checkpoint {path} is damaged: {found.step} steps are more than an epoch of {videos} videos has"
        )
    return notes


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load strictly; raises UserError where `check_fit` does."""
    check_fit(model, state, path)
    model.load_state_dict(dict(state))


def check_fit(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """UserError with the names and both shapes where something is missing, extra or of another size.

    model: may be on the device "meta", without memory.
    """
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


def load_optimizer(optimizer: torch.optim.Optimizer, momenta: Sequence[Tensor | None], path: Path) -> None:
    """Momentum buffers by the number of the parameter, as published; rates and ratios stay those of the options.

    UserError where the numbers or shapes of the parameters differ.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(momenta) != len(parameters):
        raise UserError(f"the optimizer in {path} has {len(momenta)} parameters, the model {len(parameters)}")
    for number, (momentum, parameter) in enumerate(zip(momenta, parameters, strict=True)):
        if momentum is None:
            continue
        if momentum.shape != parameter.shape:
            raise UserError(
                f"the optimizer in {path} keeps {list(momentum.shape)} for parameter {number}, "
                f"which is {list(parameter.shape)} in the model"
            )
        # In the parameter's own memory layout: fused SGD goes through both as if they were flat.
        optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
