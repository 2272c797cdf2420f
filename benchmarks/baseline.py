"""A training step and an evaluation: the published implementation's costs, rebuilt on our modules, against ours.

    python -m benchmarks.baseline
    python -m benchmarks.baseline --precision float32 --batch_size 4 --rounds 5 --threads 1
    python -m benchmarks.baseline --device cuda --batch_size 32 --rounds 20 --precision float32 float16

`yardstick.py` says what the yardstick is. Both get the same weights, videos and random draws, and take turns, a step
each, in one process. --precision is that of the two backbones in training. The memory at the peak of a step is measured
in a process of its own: what the process holds then beyond what it held before there was a model.

In float64 both give the same losses, gradients and outputs to seven digits and more. In float32 and below, gradients of
a network with random weights differ a lot: batch norms over few samples amplify rounding from layer to layer.
"""

import argparse
import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.early_exit import random_clips, random_model
from benchmarks.measuring import NAMES, SIZES, Row, largest_difference, peak_memory, row_of, run, take_turns
from benchmarks.yardstick import (
    LOSSES,
    RATES,
    SGD,
    baseline_clips,
    baseline_evaluation,
    baseline_model,
    baseline_optimizer,
    baseline_training_step,
)
from models.uni_adafocus import Output
from ops.engine import accumulate_gradients
from ops.inference import check_precision, prepare_for_inference
from ops.optim import build_optimizer
from ops.setup import train_in_half
from ops.utils.errors import UserError, run_entry

PRECISIONS = ("float32", "bfloat16", "float16")
OPTIONS = SIZES | {"batch_size": 1, "rounds": 2, "precision": ["float32", "bfloat16"]}
SMALL = {
    "num_segments": 12, "num_glance_segments": 4, "num_focus_segments": 4, "input_size": 64, "patch_size": 32,
    "batch_size": 2,
}  # fmt: skip


def training_step(
    model: nn.Module,
    frames: Tensor,
    target: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> dict[str, Tensor]:
    """One update as `ops.engine.train_steps` makes it; the loss terms, on the device. frames: uint8."""
    optimizer.zero_grad(set_to_none=True)
    losses = accumulate_gradients(model, frames, target, scaler, **LOSSES)
    scaler.step(optimizer)
    scaler.update()
    return losses


class Contestant:
    """The yardstick or ours: `step()` is an update and gives the loss terms, `evaluation()` what gives the outputs.

    All have the same weights and videos, and every step the same random draws.
    name: one of `NAMES`; precision, scope: of training, see `ops.setup.train_in_half`; again: whether activations are
    computed again in the backward pass; dtype: of the weights.
    """

    def __init__(
        self,
        name: str,
        arguments: argparse.Namespace,
        precision: str = "float32",
        scope: str = "backbones",
        again: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name = name
        self.device = device = torch.device(arguments.device)
        model = random_model(arguments).to(device, dtype)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # what is drawn would depend on the order of drawing
        frames = random_clips(arguments.batch_size, arguments)
        self.target = torch.arange(arguments.batch_size) % arguments.classes
        if name == "yardstick":
            self.model, self.frames = baseline_model(model), baseline_clips(model, frames)
            self.optimizer, self._update = baseline_optimizer(self.model), baseline_training_step
        else:
            self.model, self.frames = model, frames
            model.backbones_to_channels_last()
            model.checkpoint_activations(again)
            self.optimizer, self._update = build_optimizer(model, **SGD, **RATES), training_step
        if device.type == "cuda":
            self.frames = self.frames.pin_memory()
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        if precision != "float32":
            self.scaler = train_in_half(self.model, precision, scope, device)

    def step(self) -> Mapping[str, float | Tensor]:
        torch.manual_seed(0)
        return self._update(self.model.train(), self.frames, self.target, self.optimizer, self.scaler, self.device)

    def evaluation(self, precision: str = "float32", compiled: bool = False) -> Callable[[], Output]:
        """With the weights that there are now; precision, compiled: of ours, as for `prepare_for_inference`."""
        model = copy.deepcopy(self.model).eval()
        if self.name == "yardstick":
            return lambda: baseline_evaluation(model, self.frames, self.device)
        prepared = prepare_for_inference(model, precision, compiled)
        return torch.inference_mode()(lambda: prepared(self.frames.to(self.device, non_blocking=True)))

    def gradients(self) -> dict[str, Tensor]:
        """Those of the last step, of each parameter group in one piece."""
        return {
            group["name"]: torch.cat([p.grad.flatten() for p in group["params"] if p.grad is not None])
            for group in self.optimizer.param_groups
        }


def difference_in_double(arguments: argparse.Namespace) -> str:
    """The largest difference of loss terms and gradients of a step in float64, on small frames, and where it is.

    In float32, rounding is amplified by 50 layers of random weights until the focus network's gradients have little in
    common; the same two programs in float64 tell whether they compute the same.
    """
    small, terms = argparse.Namespace(**vars(arguments) | SMALL), []
    for name in NAMES:
        contestant = Contestant(name, small, dtype=torch.float64)
        losses = contestant.step()
        terms.append({name: torch.as_tensor(value) for name, value in losses.items()} | contestant.gradients())
    return largest_difference(*terms)


def step_of(*contestant: object) -> Callable[[], object]:
    """A training step of `Contestant(*contestant)`, for `peak_memory`."""
    return Contestant(*contestant).step


def evaluation_row(
    title: str,
    both: Mapping[str, Contestant],
    arguments: argparse.Namespace,
    precision: str = "float32",
    compiled: bool = False,
) -> Row:
    """Videos per second of an evaluation, ours in a precision, and compiled or not."""
    ways = {name: each.evaluation(precision, compiled) for name, each in both.items()}
    seconds, outputs = take_turns(ways, arguments.rounds, arguments.device)
    difference = largest_difference(*(vars(outputs[name]) for name in NAMES))
    return row_of(f"evaluation, {title}, videos/s", seconds, difference, arguments.batch_size)


def training_rows(
    title: str, settings: Mapping[str, tuple], arguments: argparse.Namespace, remark: str = ""
) -> Iterator[Row]:
    """Videos per second and memory of a training step. settings: by name, what `Contestant` takes after the options."""
    steps = {name: Contestant(name, arguments, *settings[name]).step for name in NAMES}
    seconds, _ = take_turns(steps, arguments.rounds, arguments.device)
    yield row_of(f"training, {title}, videos/s", seconds, remark, arguments.batch_size)
    del steps
    there, here = (peak_memory(step_of, name, arguments, *settings[name]) for name in NAMES)
    yield Row("  memory of a step, GB", there, here, there / here)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Evaluation in each precision that the device has, then training in those that are asked for."""
    both = {name: Contestant(name, arguments) for name in NAMES}
    for precision in PRECISIONS:
        if _device_has(precision, torch.device(arguments.device)):
            yield evaluation_row(precision, both, arguments, precision)
    del both
    remark = f"{difference_in_double(arguments)} of losses and gradients in float64"
    for precision in arguments.precision:
        yield from training_rows(precision, dict.fromkeys(NAMES, (precision,)), arguments, remark)
        remark = ""
    again = {"yardstick": ("float32",), "ours": ("float32", "backbones", True)}
    yield from training_rows("float32, --checkpoint_activations", again, arguments)


def _device_has(precision: str, device: torch.device) -> bool:
    with contextlib.suppress(UserError):
        check_precision(precision, device)
        return True
    return False


main = partial(run, __doc__, measure, OPTIONS, choices={"precision": PRECISIONS})


if __name__ == "__main__":
    run_entry(main)
