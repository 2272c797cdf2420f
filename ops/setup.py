"""Builds the parts of a run from its options: data, model, optimizer, and what a checkpoint brings.

Every function may raise UserError; the entry scripts call them on all processes under `distributed.fail_together`.
"""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import dataset_config
from models.backbones import WeightsError, load_imagenet_weights
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint, distributed
from ops.compilation import check_compiler
from ops.dataset import VideoDataset
from ops.errors import UserError
from ops.inference_network import check_precision
from ops.loaders import TrainingBatches
from ops.optim import build_optimizer

ROOT = Path(__file__).resolve().parent.parent

# Options that may differ between a run and its continuation without changing what comes out.
WITHOUT_CONSEQUENCE = {
    "data_dir", "root_log", "resume", "init_from", "pretrained", "glance_ckpt_path", "evaluate", "save_predictions",
    "workers", "print_freq", "eval_freq", "ignored", "start_epoch", "save_freq", "keep", "time_limit", "check_data",
    "eval_precision", "compile", "val_batch_size", "eval_suffix",
}  # fmt: skip


@dataclass
class Training:
    """What training needs beside the model."""

    dataset: VideoDataset
    batches: TrainingBatches
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    first_epoch: int = 0
    first_step: int = 0  # steps of that epoch that are done already
    losses: checkpoint.LossTotals | None = None  # of these steps
    best: float | None = None  # the best main metric so far, percent; None before the first evaluation


def prepare_training(
    model: UniAdaFocus,
    dataset: VideoDataset,
    options: argparse.Namespace,
    mixed_precision: bool,
    device: torch.device,
    resumed: Mapping[str, Any] | None,
) -> Training:
    """Batches, optimizer and precision; from a checkpoint, where it stopped."""
    batches = TrainingBatches(
        len(dataset), options.batch_size, options.seed, distributed.rank(), distributed.world_size()
    )
    model.backbones_to_channels_last()
    optimizer = build_optimizer(model, **optimizer_options(options))
    scaler = torch.amp.GradScaler(device.type, enabled=False)
    if mixed_precision:
        scaler = train_in_half(model, options.amp_dtype, options.amp_scope, device)
    training = Training(dataset, batches, optimizer, scaler)
    if resumed is not None:
        resume_training(training, resumed, options)
    if options.start_epoch is not None:
        training.first_epoch, training.first_step, training.losses = options.start_epoch, 0, None
    return training


def find_dataset(options: argparse.Namespace) -> dataset_config.DatasetConfig:
    """The dataset's files; the toy dataset is made where it is not there yet."""
    if options.dataset == "toy":
        from ops.toy_dataset import make_toy_dataset  # needed for this dataset only

        with distributed.main_process_first():
            if distributed.is_main_process():
                make_toy_dataset(Path(options.data_dir), workers=os.cpu_count() or 1)
    return dataset_config.get_dataset(options.dataset, options.data_dir, options.metric, options.frame_template)


def build_dataset(
    options: argparse.Namespace, config: dataset_config.DatasetConfig, split: str, *, training: bool
) -> VideoDataset:
    """One split with the options' number of frames and frame size."""
    return VideoDataset(
        config, split, options.num_segments, options.input_size, training, options.seed, backend=options.decode
    )


def share_of_batch(options: argparse.Namespace) -> int:
    """How many videos of each global batch are this process's; UserError where they cannot be shared equally, or not
    be worked through in `--grad_accum` equal pieces."""
    processes = distributed.world_size()
    share = _equal_share("--batch_size", options.batch_size)
    if not options.evaluate and share % options.grad_accum:
        raise UserError(
            f"--grad_accum {options.grad_accum} does not divide the {share} videos that each of {processes} "
            f"process(es) has of --batch_size {options.batch_size}"
        )
    return share


def share_of_evaluation_batch(options: argparse.Namespace) -> int:
    """How many videos this process evaluates at a time; UserError where processes cannot share them equally."""
    if options.val_batch_size is None:
        return _equal_share("--batch_size", options.batch_size)
    return _equal_share("--val_batch_size", options.val_batch_size)


def _equal_share(option: str, videos: int) -> int:
    processes = distributed.world_size()
    if videos % processes:
        raise UserError(f"{option} {videos} cannot be shared equally by {processes} processes")
    return videos // processes


def check_speed_options(options: argparse.Namespace, device: torch.device) -> None:
    """Raise UserError where `--eval_precision` or `--compile` is not to be had on this device."""
    check_precision(options.eval_precision, device)
    if options.compile:
        check_compiler(device)


def build_model(options: argparse.Namespace, num_classes: int) -> UniAdaFocus:
    """The network of the options on the CPU, with random weights that the seed decides."""
    torch.manual_seed(options.seed)
    return UniAdaFocus(
        num_classes,
        options.num_segments,
        options.num_glance_segments,
        options.num_focus_segments,
        options.patch_size,
        options.input_size,
        options.stn_hidden_dim,
        options.temporal_hidden_dim,
        options.temperature,
        options.dropout,
        options.fc_dropout,
        options.glance_arch,
    )


def load_starting_weights(model: UniAdaFocus, options: argparse.Namespace) -> list[str]:
    """The weights that training starts from, where it does not resume; returns lines that say where they came from."""
    if options.init_from:
        path = Path(options.init_from)
        anew = checkpoint.load_for_fine_tuning(model, checkpoint.load(path)["state_dict"], path)
        return [f"weights of {path}", f"starting anew: {', '.join(anew) or 'nothing'}"]
    if options.pretrained == "none":
        return ["random weights"]
    with distributed.main_process_first():  # one process downloads, the others find the file
        try:
            glance_file = Path(options.glance_ckpt_path) if options.glance_ckpt_path else None
            return load_imagenet_weights(model.global_CNN, model.local_CNN, glance_file, ROOT)
        except WeightsError as error:
            raise UserError(str(error)) from error


def optimizer_options(options: argparse.Namespace) -> dict[str, float]:
    """The options that `build_optimizer` takes, by its names."""
    names = ("lr", "momentum", "weight_decay", "temporal_lr_ratio", "stn_lr_ratio", "global_lr_ratio")
    return {name: getattr(options, name) for name in (*names, "classifier_lr_ratio")}


def train_in_half(model: UniAdaFocus, dtype: str, scope: str, device: torch.device) -> torch.amp.GradScaler:
    """Switch the "backbones" or "all" layers to "float16" or "bfloat16" in training; only float16 needs its gradients
    scaled. dtype "auto" is float16 on a GPU and bfloat16 on a CPU."""
    on_gpu = device.type == "cuda"
    if dtype == "auto":
        dtype = "float16" if on_gpu else "bfloat16"
    if dtype == "bfloat16" and on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UserError("this GPU has no bfloat16 (they do from Ampere on): use --amp_dtype float16")
    model.train_in_half(getattr(torch, dtype), scope)
    return torch.amp.GradScaler(device.type, enabled=dtype == "float16")


def wrap(model: UniAdaFocus, device: torch.device) -> nn.Module:
    """DistributedDataParallel where there are several processes."""
    if distributed.world_size() == 1:
        return model
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def find_checkpoint(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The content of the checkpoint that `--resume` means, or None to start anew; and lines to print.

    `auto` is the newest readable one in the run's folder, if there is any; otherwise the option names a file.
    `options.resume` becomes the file's path.
    """
    if options.resume != "auto":
        return (checkpoint.load(Path(options.resume)) if options.resume else None), []
    found = checkpoint.newest(folder)
    if found is None:
        if options.evaluate:
            raise UserError(f"no checkpoint in {folder} to evaluate: train first, or name one with --resume")
        options.resume = ""
        return None, [f"no checkpoint in {folder}: starting anew"]
    path, content, problems = found
    options.resume = str(path)
    return content, [f"warning: {problem}" for problem in problems]


def resume_training(training: Training, resumed: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Go on where the checkpoint stopped: optimizer, scaler, place in the epoch, best metric, random state."""
    path = Path(options.resume)
    if "optimizer" not in resumed or "epoch" not in resumed:
        raise UserError(f"checkpoint {path} holds weights only: start from them with --init_from")
    checkpoint.load_optimizer(training.optimizer, resumed["optimizer"], path)
    if training.scaler.is_enabled() and resumed.get("scaler"):
        training.scaler.load_state_dict(resumed["scaler"])
    training.first_epoch = int(resumed["epoch"])
    training.best = float(resumed.get("best_acc1", 0.0)) or None  # 0 stands for no evaluation yet
    training.first_step, training.losses = int(resumed.get("step", 0)), resumed.get("losses")
    states = resumed.get("random_states", [])
    if distributed.rank() < len(states):
        torch.set_rng_state(states[distributed.rank()])
    videos = resumed.get("videos", len(training.dataset))
    if training.first_step and videos != len(training.dataset):
        raise UserError(
            f"checkpoint {path} stands in the middle of an epoch of {videos} videos, but the training split has "
            f"{len(training.dataset)} now; restore the split file and its frames (see --skip_missing), or take a "
            "checkpoint from the end of an epoch"
        )
    before = resumed.get("options", {})
    changed = [name for name in ("batch_size", "seed") if name in before and before[name] != getattr(options, name)]
    if training.first_step and changed:
        wanted = " ".join(f"--{name} {before[name]}" for name in changed)
        raise UserError(
            f"checkpoint {path} stands in the middle of an epoch, which can only be finished with {wanted}; "
            "use that, or a checkpoint from the end of an epoch"
        )


def changed_options(resumed: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """Options that decide the outcome and differ from the checkpoint's, as `name: there -> here`."""
    before = resumed.get("options", {})
    return [
        f"{name}: {before[name]} -> {value}"
        for name, value in sorted(vars(options).items())
        if name in before and name not in WITHOUT_CONSEQUENCE and before[name] != value
    ]
