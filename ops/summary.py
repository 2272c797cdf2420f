"""What the network consists of: parameters and GFLOPs of each part (`--summary`), for the sizes that the options say.

The network is built without memory for its weights, so this takes a second and needs no data and no checkpoint.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dataset_config import BUILT_IN, BuiltIn, read_classes
from models.uni_adafocus import UniAdaFocus
from ops.flops import cost_table, exit_gflops, gflops, part_gflops
from ops.setup import build_model
from ops.toy.dataset import ToySettings
from ops.utils.errors import EXIT_DONE, UserError, is_first_process

KNOWN_CLASSES = {"actnet": 200, "fcvid": 239, "minik": 200, "toy": ToySettings().num_classes}


@dataclass(frozen=True)
class Part:
    """One line of the table; GFLOPs are per video."""

    name: str
    parameters: int
    gflops: float
    note: str = ""


def print_summary(options: argparse.Namespace) -> int:
    """What `--summary` does; of several processes only the first. Returns the exit code.

    Raises UserError where neither the data folder nor the dataset's name tells the number of classes.
    """
    if is_first_process():
        num_classes, source = count_classes(options)
        with torch.device("meta"):
            model = build_model(options, num_classes)
        print(f"{options.dataset}: {num_classes} classes ({source})", *summary_lines(model), sep="\n")
    return EXIT_DONE


def count_classes(options: argparse.Namespace) -> tuple[int, str]:
    """The number of classes, and where it comes from: the data folder's class file, else the dataset's name."""
    folder = Path(os.path.expanduser(options.data_dir or ""))
    candidates = [folder / name for name in BUILT_IN.get(options.dataset, BuiltIn()).class_files]
    for path in candidates:
        if options.data_dir and path.is_file():
            return len(read_classes(path)), str(path)
    if options.dataset in KNOWN_CLASSES:
        return KNOWN_CLASSES[options.dataset], "what this dataset has; no class file looked at"
    where = f"{candidates[0]} does not exist" if options.data_dir else "--data_dir is not given"
    raise UserError(f"--summary: how many classes has --dataset {options.dataset}? {where}; give its folder")


def summary_lines(model: UniAdaFocus) -> Iterator[str]:
    """The parts as a table, and the cost of each exit."""
    parts = summary_parts(model)
    yield "part             parameters GFLOPs per video"
    yield from map(_line, parts)
    yield _line(Part("a prediction", sum(part.parameters for part in parts), exit_gflops(model)[-1]))
    yield _line(training_heads(model))
    unused = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    yield _line(Part("ImageNet heads", unused, 0.0, "unused; published checkpoints hold them"))
    yield from cost_table(exit_gflops(model))


def summary_parts(model: UniAdaFocus) -> list[Part]:
    """The parts that a prediction needs; together they cost as much as the last exit."""
    frames, side = model.num_glance_segments, model.input_size
    patches, patch = model.num_focus_segments, model.patch_size
    cost = part_gflops(model)
    each_frame, each_patch = cost["glance"] / frames, cost["focus_per_patch"]
    classifier = cost["classifier_glance"] + patches * cost["classifier_per_patch"]
    glances = f"{frames} x {each_frame:.4f}, {side} x {side} pixels"
    focus = f"{patches} x {each_patch:.4f}, {patch} x {patch} pixels"
    return [
        _part("glance network", model.global_CNN, cost["glance"], glances),
        _part("spatial policy", model.spatial_policy, cost["spatial_policy"]),
        _part("temporal policy", model.temporal_policy, cost["temporal_policy"]),
        _part("focus network", model.local_CNN, patches * each_patch, focus),
        _part("classifier", model.classifier, classifier, f"{frames + patches} steps"),
    ]


def training_heads(model: UniAdaFocus) -> Part:
    """The heads of single frames, of single patches and of the spatial policy."""
    counted = (
        (model.num_glance_segments, model.global_CNN_fc),
        (model.num_focus_segments, model.local_CNN_fc),
        (1, model.aux_fc),
    )
    heads = nn.ModuleList(head for _, head in counted)
    cost = sum(gflops(head, count, next(head.parameters()).shape[1]) for count, head in counted)
    return _part("training's heads", heads, cost, "they train the parts; no prediction needs them")


def _part(name: str, module: nn.Module, cost: float, note: str = "") -> Part:
    return Part(name, sum(each.numel() for each in module.parameters() if each.requires_grad), cost, note)


def _line(part: Part) -> str:
    return f"{part.name:16s} {part.parameters:10,d} {part.gflops:9.4f}  {part.note}".rstrip()
