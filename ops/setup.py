"""Builds the parts of a run from its options: data, model, optimizer, and what a checkpoint brings.

Every function may raise UserError; the entry scripts call them on all processes under `distributed.fail_together`.
"""

import argparse
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
from ops.dataset import VideoDataset
from ops.errors import UserError
from ops.loaders import TrainingBatches
from ops.optim import build_optimizer

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Training:
    """What training needs beside the model."""

    dataset: VideoDataset
    batches: TrainingBatches
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    first_epoch: int
    best: float  # the best main metric so far, percent


def prepare_training(
    model: UniAdaFocus,
    config: dataset_config.DatasetConfig,
    options: argparse.Namespace,
    mixed_precision: bool,
    device: torch.device,
    resumed: Mapping[str, Any] | None,
) -> Training:
    """Data, optimizer and precision; from a checkpoint, where it stopped."""
    dataset = build_dataset(options, config, "train", training=True)
    batches = TrainingBatches(
        len(dataset), options.batch_size, options.seed, distributed.rank(), distributed.world_size()
    )
    optimizer = build_optimizer(model, **optimizer_options(options))
    scaler = set_precision(model, mixed_precision, device)
    return Training(dataset, batches, optimizer, scaler, *resume_training(resumed, optimizer, scaler, options))


def find_dataset(options: argparse.Namespace) -> dataset_config.DatasetConfig:
    """The dataset's files; the toy dataset is made where it is not there yet."""
    if options.dataset == "toy":
        from ops.toy_dataset import make_toy_dataset  # needed for this dataset only

        with distributed.main_process_first():
            if distributed.is_main_process():
                make_toy_dataset(Path(options.data_dir))
    return dataset_config.get_dataset(options.dataset, options.data_dir, options.metric, options.frame_template)


def build_dataset(
    options: argparse.Namespace, config: dataset_config.DatasetConfig, split: str, *, training: bool
) -> VideoDataset:
    """One split with the options' number of frames and frame size."""
    return VideoDataset(config, split, options.num_segments, options.input_size, training, seed=options.seed)


def share_of_batch(options: argparse.Namespace) -> int:
    """How many videos of each global batch are this process's; UserError where they cannot be shared equally."""
    processes = distributed.world_size()
    if options.batch_size % processes:
        raise UserError(f"--batch_size {options.batch_size} cannot be shared equally by {processes} processes")
    return options.batch_size // processes


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


def set_precision(model: UniAdaFocus, mixed_precision: bool, device: torch.device) -> torch.amp.GradScaler:
    """Switch the backbones to half precision in training: float16 with gradient scaling on a GPU, bfloat16 on a CPU."""
    on_gpu = device.type == "cuda"
    if mixed_precision:
        model.backbone_dtype = torch.float16 if on_gpu else torch.bfloat16
    return torch.amp.GradScaler(device.type, enabled=mixed_precision and on_gpu)


def wrap(model: UniAdaFocus, device: torch.device) -> nn.Module:
    """DistributedDataParallel where there are several processes."""
    if distributed.world_size() == 1:
        return model
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def resume_model(model: UniAdaFocus, options: argparse.Namespace) -> Mapping[str, Any] | None:
    """Load the weights of `--resume`; returns the rest of the checkpoint, or None without the option."""
    if not options.resume:
        return None
    loaded = checkpoint.load(Path(options.resume))
    checkpoint.load_model(model, loaded.pop("state_dict"), Path(options.resume))
    return loaded


def resume_training(
    resumed: Mapping[str, Any] | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    options: argparse.Namespace,
) -> tuple[int, float]:
    """Optimizer and scaler from the checkpoint; returns the first epoch to run and the best metric so far."""
    first_epoch, best = 0, 0.0
    if resumed is not None:
        path = Path(options.resume)
        if "optimizer" not in resumed or "epoch" not in resumed:
            raise UserError(f"checkpoint {path} holds weights only, so training cannot go on from it")
        checkpoint.load_optimizer(optimizer, resumed["optimizer"], path)
        if scaler.is_enabled() and resumed.get("scaler"):
            scaler.load_state_dict(resumed["scaler"])
        first_epoch, best = int(resumed["epoch"]), float(resumed.get("best_acc1", 0.0))
    if options.start_epoch is not None:
        first_epoch = options.start_epoch
    return first_epoch, best
