"""A checkpoint -> its model: the sizes from the tensors, the rest from the options in the file, as published otherwise.

    model = model_of_checkpoint(ops.checkpoint.read(path))  # with its weights, on the CPU, in evaluation mode

Our checkpoints keep the options of their run. Published ones keep none, and need overrides where they were not made
with the published settings. What the tensors say is not for options to say otherwise.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.backbones import STRIDE
from models.uni_adafocus import UniAdaFocus
from ops.checkpoint import Checkpoint, check_fit, load_strictly
from ops.utils.errors import UserError

# Settings that no tensor tells, with the published values.
PUBLISHED = {"num_segments": 48, "patch_size": 128, "temperature": 1.0, "dropout": 0.2, "fc_dropout": 0.2}
_LARGEST = 10_000  # frames of a video, pixels of a patch
_GLANCE_NETWORKS = {1280: "mbv2", 2048: "res50"}  # by the number of features


def model_of_checkpoint(found: Checkpoint, overrides: Mapping[str, float | None] | None = None) -> UniAdaFocus:
    """The network of a checkpoint with its weights, on the CPU and in evaluation mode.

    overrides: any of `PUBLISHED`, None where not given.
    Raises UserError where the file is of another network, or an override contradicts the options in it.
    """
    path = found.path
    settings = settings_of_checkpoint(found, overrides)
    try:
        with torch.device("meta"):  # what some tensors announce is compared with all of them before it takes up memory
            check_fit(UniAdaFocus(**settings), found.state_dict, path)
        model = UniAdaFocus(**settings)
    except (ValueError, RuntimeError) as error:  # what does not go together
        options = ", ".join(f"--{name}" for name in PUBLISHED if name in str(error))
        raise UserError(
            f"checkpoint {path}: {error}" + (f"; give the value it was trained with ({options})" if options else "")
        ) from error
    load_strictly(model, found.state_dict, path)
    return model.eval()


def settings_of_checkpoint(found: Checkpoint, overrides: Mapping[str, float | None] | None = None) -> dict[str, Any]:
    """The arguments of `UniAdaFocus`; see `model_of_checkpoint`."""
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    kept, path = found.options, found.path
    for name, value in given.items():
        if name in kept and kept[name] != value:
            raise UserError(
                f"--{name} {value:g} contradicts checkpoint {path}, which was made with {kept[name]}: leave it out"
            )
    rest = {name: kept.get(name, given.get(name, published)) for name, published in PUBLISHED.items()}
    for name, value in rest.items():
        number = int if name in ("num_segments", "patch_size") else (int, float)
        low = 0 if "dropout" in name else 1e-6
        if isinstance(value, bool) or not isinstance(value, number) or not low <= value <= _LARGEST:
            raise UserError(f"checkpoint {path}: its option {name} is {value!r:.60}, which cannot be")
    return sizes_of_tensors(found.state_dict, path) | rest


def sizes_of_tensors(state: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """What the tensors tell: classes, steps of the glance and of the focus, hidden sizes, frame size, glance network.

    Raises UserError where they are not those of a Uni-AdaFocus network.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in state or state[name].dim() != dimensions:
            raise UserError(f"checkpoint {path} is not of a Uni-AdaFocus network: it has no {name} as that has")
        return tuple(state[name].shape)

    features = shape("global_CNN_fc.1.weight", 2)[1]
    if features not in _GLANCE_NETWORKS:
        raise UserError(f"checkpoint {path} has an unknown glance network, of {features} features")
    *_, map_size = shape("spatial_policy.encoder.9.weight", 5)
    return {
        "num_classes": shape("global_CNN_fc.1.weight", 2)[0],
        "num_glance_segments": _count(state, "global_classifiers"),
        "num_focus_segments": _count(state, "local_classifiers"),
        "input_size": map_size * STRIDE,
        "stn_hidden_dim": shape("spatial_policy.encoder.0.weight", 5)[0],
        "temporal_hidden_dim": shape("temporal_policy.Tconv.0.weight", 4)[0],
        "glance_arch": _GLANCE_NETWORKS[features],
    }


def _count(state: Mapping[str, Tensor], heads: str) -> int:
    """How many steps have a head."""
    return sum(re.fullmatch(rf"classifier\.{heads}\.\d+\.1\.weight", name) is not None for name in state)
