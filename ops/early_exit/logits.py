"""The logits of all exits on a split, computed once and kept in the log folder with what they depend on.

exit_logits.npz holds for each split, train or val: SPLIT_logits float32 [N, K, C], SPLIT_labels int64 [N, 3] padded
with -1, SPLIT_focus_indices int64 [N, F] and SPLIT_video [N] (names), in the order of the split file; and
SPLIT_depends_on, a JSON object.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.uni_adafocus import Output, UniAdaFocus
from ops import engine
from ops.data.check import report_replaced
from ops.data.dataset import DECODERS, VideoDataset
from ops.early_exit.thresholds import Weights, model_sizes
from ops.report.outputs import of_checkpoint
from ops.runner import evaluation_batches
from ops.utils import distributed
from ops.utils.errors import first_line
from ops.utils.files import whole_file
from ops.utils.session import Run

FILE_NAME = "exit_logits.npz"


def kept_or_computed(run: Run, model: UniAdaFocus, dataset: VideoDataset, weights: Weights) -> Tensor | None:
    """The logits of a split, float32 [N, K, C]: those of the log folder where they fit, else computed by all processes
    and kept there. K = F + 1 exits are the last glance step and each focus step.

    Returns None on all processes but the main one. Raises UserError for a video that cannot be read, and, on every
    process, for logits that are not finite and a file that cannot be written; Stopped when a signal comes.
    """
    path = run.log.folder / of_checkpoint(FILE_NAME, run.log.folder, weights.path)
    kept, depends_on = None, {}
    with distributed.fail_together():
        if distributed.is_main_process():
            depends_on = dependencies(model, dataset, weights.sha256, run.options.eval_precision)
            kept = _read(path, dataset, depends_on, run.log.line)
    if distributed.broadcast_object(kept is not None):
        return kept
    computed = compute(model, dataset, evaluation_batches(run, dataset, f"Exit logits, {dataset.split}"))
    report_replaced(dataset, run.log.line, f"exit logits, {dataset.split}")
    with distributed.fail_together():
        if distributed.is_main_process():
            engine.check_finite({"exits": computed["logits"].flatten(1)}, dataset.video_name)
            _write(path, dataset, computed, depends_on)
    return computed["logits"]


def dependencies(model: UniAdaFocus, dataset: VideoDataset, checkpoint_hash: str, precision: str) -> dict[str, Any]:
    """All that the logits of a split depend on but for the pixels of its frames: plain values by name."""
    config = dataset.config
    found = {
        "checkpoint": checkpoint_hash,
        **model_sizes(model),
        "videos": dataset.annotations.digest(),
        "frames": str(config.frames_root.resolve() / config.template),
    }
    # The usual ones are left out, so that files of older versions fit.
    if dataset.backend != DECODERS[0]:
        found["decode"] = dataset.backend
    if precision != "float32":
        found["eval_precision"] = precision
    return found | ({"seed": dataset.seed} if dataset.training else {})


def compute(model: UniAdaFocus, dataset: VideoDataset, batches: Iterable[engine.Batch]) -> dict[str, Tensor | None]:
    """Run the whole model over a split. batches: this process's share.

    Returns `logits` [N, K, C] and `focus_indices` int64 [N, F] on the main process, else None for each.
    """

    def heads(output: Output) -> dict[str, Tensor]:
        last_glance = model.num_glance_segments - 1
        return {"logits": output.step_logits[:, last_glance:], "focus_indices": output.focus_indices}

    with torch.inference_mode():
        collected, indices = engine.collect(model, batches, heads)
    collected["focus_indices"] = collected["focus_indices"].long()
    return {name: distributed.gather_rows(values, indices, len(dataset)) for name, values in collected.items()}


def _read(
    path: Path, dataset: VideoDataset, depends_on: Mapping[str, Any], say: Callable[[str], None]
) -> Tensor | None:
    arrays, split = _arrays(path, say), dataset.split
    if f"{split}_depends_on" not in arrays:
        return None
    try:
        before = dict(json.loads(str(arrays[f"{split}_depends_on"])))
        logits = arrays[f"{split}_logits"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        say(f"{path} is damaged ({first_line(error)}); computing the {split} logits again")
        return None
    changed = [name for name in {**before, **depends_on} if before.get(name) != depends_on.get(name)]
    if changed:
        changes = ", ".join(f"{name} {_short(before.get(name))} -> {_short(depends_on.get(name))}" for name in changed)
        say(f"{path}: the {split} logits are not of this run ({changes}); computing them again")
        return None
    expected = (len(dataset), depends_on["num_focus_segments"] + 1, depends_on["num_classes"])
    if logits.dtype != np.float32 or logits.shape != expected or not np.isfinite(logits).all():
        say(f"{path} is damaged: its {split} logits are not {expected} finite numbers; computing them again")
        return None
    say(f"{path} has the {split} logits of this checkpoint and these options: only the curves are computed")
    return torch.from_numpy(logits)


def _write(path: Path, dataset: VideoDataset, found: Mapping[str, Tensor], depends_on: Mapping[str, Any]) -> None:
    arrays = _arrays(path, lambda line: None)
    if not _of_one_checkpoint(arrays, depends_on):  # else the other split's stay
        arrays = {}
    values = {name: value.numpy() for name, value in found.items()} | {
        "labels": dataset.labels.numpy(),
        "video": np.array(dataset.video_names()),
        "depends_on": np.array(json.dumps(depends_on)),
    }
    arrays |= {f"{dataset.split}_{name}": value for name, value in values.items()}
    with whole_file(path) as file:
        np.savez(file, **arrays)


def _of_one_checkpoint(arrays: Mapping[str, np.ndarray], depends_on: Mapping[str, Any]) -> bool:
    """Whether all splits in the file have the logits of the checkpoint that these depend on."""
    try:
        before = [json.loads(str(value)) for name, value in arrays.items() if name.endswith("_depends_on")]
        return all(found["checkpoint"] == depends_on["checkpoint"] for found in before)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _arrays(path: Path, say: Callable[[str], None]) -> dict[str, np.ndarray]:
    """Everything in the file; nothing where it is absent or not as this program writes it."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return {}
    except Exception as error:  # NumPy and zipfile raise a dozen types on damaged bytes, MemoryError among them
        say(f"{path} cannot be read ({first_line(error)}); computing the logits again")
        return {}


def _short(value: object) -> str:
    """A value for people: of a hash, its beginning."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
