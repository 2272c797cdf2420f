"""Builds the parts of a run from its options: data, model, and what training changes.

Every function may raise UserError, on all processes together.
"""

import argparse
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dataset_config
from models.backbones import WeightsError, load_imagenet_weights
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.data.check import check_splits
from ops.data.dataset import VideoDataset
from ops.data.loaders import TrainingBatches
from ops.engine import TrainingState
from ops.inference import check_precision, gpu_has_bfloat16
from ops.inference_cpu import computes_in_bfloat16
from ops.metrics import MAIN_METRIC
from ops.optim import build_optimizer
from ops.utils import distributed
from ops.utils.cores import available_cores
from ops.utils.errors import UserError, first_line
from ops.utils.files import check_writable
from ops.utils.session import Run
from ops.utils.signals import leaving_at_once
from opts import without_effect

ROOT = Path(__file__).resolve().parent.parent

# Options that change what an evaluation says of a checkpoint, though its tensors fit.
EVALUATED_WITH = ("num_segments", "patch_size", "temperature", "decode")
RECOMPUTES_COMPILED = "2.9"  # the first PyTorch that moves batch norms' statistics once when compiled and recomputed
# Options whose change needs no warning when a run is continued.
WITHOUT_CONSEQUENCE = {
    "data_dir", "root_log", "resume", "init_from", "pretrained", "glance_ckpt_path", "evaluate", "save_predictions",
    "workers", "print_freq", "eval_freq", "ignored", "start_epoch", "save_freq", "keep", "time_limit", "check_data",
    "metric", "eval_precision", "compile", "val_batch_size", "eval_suffix", "checkpoint_activations",
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """The splits of a run."""

    config: dataset_config.DatasetConfig
    splits: Mapping[str, VideoDataset]  # "train" where there is training or calibration, "val" always

    def lists(self) -> dict[str, str]:
        """Digests of what the data files say: the splits and the class names."""
        names = {"train": checkpoint.TRAINING_LIST, "val": "validation split"}
        found = {names[name]: dataset.annotations.digest() for name, dataset in self.splits.items()}
        return found | {"class file": hashlib.sha256("\n".join(self.config.classes).encode()).hexdigest()}

    @property
    def train(self) -> VideoDataset:
        return self.splits["train"]

    @property
    def val(self) -> VideoDataset:
        return self.splits["val"]


def load_data(run: Run, split_names: Sequence[str]) -> Data:
    """The splits, once each listed video is known to be there; the log says what is noticed."""
    options = run.options
    with distributed.fail_together():
        config = find_dataset(options)
        splits = {name: build_dataset(options, config, name, training=name == "train") for name in split_names}
        data = Data(config, splits)
        share_of_evaluation_batch(options)
        if options.save_predictions and Path(options.save_predictions).is_dir():
            raise UserError(f"--save_predictions {options.save_predictions} is a folder: give the name of a file")
        if options.save_predictions and distributed.is_main_process():
            check_writable(Path(options.save_predictions))
        check_precision(options.eval_precision, run.device)
        if options.compile:
            check_compiler(run.device)
            check_recomputation(options)
    for note in check_splits(data.splits, options.skip_missing):
        run.log.line(note)
    return data


@distributed.fail_together()
def trained_model(run: Run, data: Data) -> tuple[UniAdaFocus, Path]:
    """The network of `--resume` for an evaluation, and the file that it is from."""
    found = find_checkpoint(run)
    if found is None:
        raise UserError(f"no checkpoint in {run.log.folder} to evaluate: train first, or name one with --resume")
    model = build_model(run.options, data.config.num_classes)
    checkpoint.load_strictly(model, found.state_dict, found.path)
    before = {name: value for name, value in found.options.items() if name in EVALUATED_WITH}
    changes, metric = changed_options(before, run.options), MAIN_METRIC[data.config.metric]
    if found.metric not in (None, metric):
        changes.append(f"main metric: {found.metric} -> {metric}")
    notes = [f"warning: not as in the checkpoint: {change}" for change in changes]
    say_what_runs(run, data, model, [f"weights of {found.path}", *notes])
    return model.to(run.device).eval(), found.path


def build_training(run: Run, data: Data, mixed_precision: bool) -> TrainingState:
    """Model, optimizer and precision: with starting weights, those to fine-tune, or where a checkpoint stopped."""
    options = run.options
    with distributed.fail_together():
        found = find_checkpoint(run)
        if options.resume and found is None:
            run.log.line(f"no checkpoint in {run.log.folder}: starting from the beginning")
        share_of_batch(options)
        TrainingBatches(len(data.train), options.batch_size, options.seed)  # refuses more videos than there are
    with distributed.fail_together():
        model = build_model(options, data.config.num_classes)
        source = [f"weights of {found.path}"] if found else load_starting_weights(model, options)
        model.to(run.device)
        model.backbones_to_channels_last()
        model.checkpoint_activations(options.checkpoint_activations)
        model.keep_batch_statistics(options.freeze_bn)
        scaler = torch.amp.GradScaler(run.device.type, enabled=False)
        if mixed_precision:
            scaler = train_in_half(model, options.amp_dtype, options.amp_scope, run.device)
            if model.half_dtype is None:
                run.log.line("this CPU has no instructions for bfloat16: training in float32 (--amp_dtype)")
        state = TrainingState(model, model, build_optimizer(model, **_taken_by(build_optimizer, options)), scaler)
        changes = changed_options(found.options, options) if found else []
        if found:
            metric = MAIN_METRIC[data.config.metric]
            changes += checkpoint.restore(state, found, options, len(data.train), data.lists(), metric)
        if options.start_epoch is not None:
            state.epoch, state.step, state.losses, state.replaced = options.start_epoch, 0, None, {}
        if options.compile:
            compile_backbones(model)
    notes = [f"warning: not as in the checkpoint: {change}" for change in changes]
    say_what_runs(run, data, model, source + notes)
    state.network = wrap(model, run.device)
    return state


def find_checkpoint(run: Run) -> checkpoint.Checkpoint | None:
    """What `--resume` means in this run's folder; the log says what was wrong with newer files."""
    found, problems = checkpoint.find(run.options.resume, run.log.folder)
    for problem in problems:
        run.log.line(f"warning: {problem}")
    return found


def find_dataset(options: argparse.Namespace) -> dataset_config.DatasetConfig:
    """The dataset's files; the toy dataset is made where it is not there yet."""
    if options.dataset == "toy":
        from ops.toy.dataset import make_toy_dataset  # needed for this dataset only

        with distributed.main_process_first():
            if distributed.is_main_process():
                make_toy_dataset(Path(options.data_dir), workers=available_cores())
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
    share = _equal_share("--batch_size", options.batch_size)
    if share % options.grad_accum:
        raise UserError(
            f"--grad_accum {options.grad_accum} does not divide the {share} videos that each of "
            f"{distributed.world_size()} process(es) has of --batch_size {options.batch_size}"
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


def build_model(options: argparse.Namespace, num_classes: int) -> UniAdaFocus:
    """The network of the options on the CPU, with random weights. Seeds PyTorch's global generator with `--seed`."""
    torch.manual_seed(options.seed)
    return UniAdaFocus(num_classes, **_taken_by(UniAdaFocus, options))


def _taken_by(function: Callable, options: argparse.Namespace) -> dict[str, Any]:
    """The options that are parameters of a function."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in vars(options).items() if name in parameters}


def load_starting_weights(model: UniAdaFocus, options: argparse.Namespace) -> list[str]:
    """The weights that training starts from, where it does not resume; returns lines that say where they came from."""
    starts_from = options.init_from or (pretrained_on_toy(model, options) if options.pretrained == "toy" else "")
    if starts_from:
        found = checkpoint.read(Path(starts_from))
        missing = checkpoint.load_for_fine_tuning(model, found.state_dict, found.path)
        return [f"weights of {found.path}", f"newly initialised: {', '.join(missing) or 'nothing'}"]
    if options.pretrained == "none":
        return ["random weights"]
    with distributed.main_process_first():  # one process downloads, the others find the file
        try:
            glance_file = Path(options.glance_ckpt_path) if options.glance_ckpt_path else None
            return load_imagenet_weights(model.global_CNN, model.local_CNN, glance_file, ROOT)
        except WeightsError as error:
            raise UserError(str(error)) from error


def pretrained_on_toy(model: UniAdaFocus, options: argparse.Namespace) -> Path:
    """The checkpoint of `ops.toy.pretrain` in the data folder, which is made where it is not there yet."""
    from ops.toy import pretrain  # needed for these weights only

    kind = model.num_classes, options.glance_arch, model.input_size, model.patch_size
    path = pretrain.file_in(Path(options.data_dir), *kind)
    with distributed.main_process_first():
        if distributed.is_main_process() and not path.exists():
            with leaving_at_once():  # there is nothing of it to save
                pretrain.pretrain(path, *kind)
    return path


def train_in_half(model: UniAdaFocus, dtype: str, scope: str, device: torch.device) -> torch.amp.GradScaler:
    """Switch the "backbones" or "all" layers to "float16" or "bfloat16" in training; only float16 needs its gradients
    scaled. dtype "auto" is float16 on a GPU, and bfloat16 on a CPU that is faster with it, otherwise float32."""
    on_gpu = device.type == "cuda"
    if dtype == "auto" and not on_gpu and not computes_in_bfloat16():
        return torch.amp.GradScaler(device.type, enabled=False)
    if dtype == "auto":
        dtype = "float16" if on_gpu else "bfloat16"
    if dtype == "bfloat16" and on_gpu and not gpu_has_bfloat16(device):
        raise UserError("this GPU has no bfloat16 (they do from Ampere on): use --amp_dtype float16")
    model.train_in_half(getattr(torch, dtype), scope)
    return torch.amp.GradScaler(device.type, enabled=dtype == "float16")


def wrap(model: UniAdaFocus, device: torch.device) -> nn.Module:
    """DistributedDataParallel where there are several processes."""
    if distributed.world_size() == 1:
        return model
    devices = [device.index] if device.type == "cuda" else None
    # Only the main process's running statistics are used: in evaluations, which share them, and in checkpoints.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters  # PyTorch 2.14
    no_exchange = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, **no_exchange)


def compile_backbones(model: UniAdaFocus) -> None:
    """Have the backbones compiled when they first train; parameters, their names and the numbers stay the same.

    In evaluation they run as before: `prepare_for_inference` makes other networks for that, and compiles those.
    """
    for backbone in (model.global_CNN, model.local_CNN):
        backbone.forward = _compiled_in_training(backbone)


def _compiled_in_training(backbone: nn.Module) -> Callable[[Tensor], Tensor]:
    as_it_is, compiled = backbone.forward, torch.compile(backbone.forward)
    return lambda images: (compiled if backbone.training else as_it_is)(images)


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile does not work on the device, which it is tried on with one addition."""
    try:
        torch.compile(lambda numbers: numbers + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds: no compiler, no Python headers, no Triton, an unsupported Python
        needed = "a C++ compiler (its path in CXX)" if device.type == "cpu" else "Triton and a C compiler"
        message = f"--compile does not work here ({first_line(error)}): it needs {needed}; or leave it out"
        raise UserError(message) from error


def check_recomputation(options: argparse.Namespace) -> None:
    """Raise UserError where compiled backbones would move their running statistics once more when activations are
    computed again."""
    if options.checkpoint_activations and torch.__version__ < RECOMPUTES_COMPILED:
        raise UserError(
            f"--compile and --checkpoint_activations together need PyTorch {RECOMPUTES_COMPILED} (this is "
            f"{torch.__version__}), before which batch norms count every batch twice: leave one of them out"
        )


def changed_options(before: Mapping[str, Any], options: argparse.Namespace) -> list[str]:
    """Options that decide the outcome and differ from those of a checkpoint, as `name: there -> here`."""
    return [
        f"{name}: {before[name]} -> {value}"
        for name, value in sorted(vars(options).items())
        if name in before and name not in WITHOUT_CONSEQUENCE and before[name] != value
    ]


def say_what_runs(run: Run, data: Data, model: UniAdaFocus, notes: Sequence[str]) -> None:
    """A few lines on what is about to run."""
    options, config = run.options, data.config
    if options.ignored:
        run.log.line(f"Without effect, as in the published code: {' '.join(options.ignored)}")
    run.log.line(
        f"{config.name}: {config.num_classes} classes, metric {config.metric}, frames {config.frames_root}/*/"
        f"{config.template}; {distributed.world_size()} process(es) on {run.device.type}, batch {options.batch_size}"
    )
    for option in without_effect(options):
        run.log.line(f"Without effect: {option}")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    run.log.line(f"{parameters / 1e6:.1f} M parameters")
    for note in notes:
        run.log.line(note)
