"""The yardstick: the published implementation's costs, rebuilt on our modules, against ours.

    python benchmarks/baseline.py
    python benchmarks/baseline.py --precision float32 --batch_size 4 --rounds 5 --threads 1
    python benchmarks/baseline.py --device cuda --batch_size 32 --rounds 20 --precision float32 float16

`yardstick.py` says what the yardstick is. Both get the same weights, videos and random draws. They take turns, a step
each, in one process. Printed are the seconds of a step (median over the rounds), the ratio of the two (median of the
ratios round by round), the largest difference of losses, outputs and gradients, and the memory at the peak of a step,
each measured in a process of its own: what the process holds then beyond what it held before there was a model.

In float64 both give the same losses, gradients and outputs to seven digits and more, which a test shows. In float32 and
below, gradients of a network with random weights differ a lot: batch norms over few samples amplify rounding from layer
to layer.
"""

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ops.waiting import wait_briefly

    wait_briefly()  # before torch is loaded

import torch
from torch import Tensor, nn

from benchmarks.early_exit import random_clips, random_model
from benchmarks.measuring import largest_difference, median, peak_memory, ratio, take_turns
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
from models.uni_adafocus import Output, UniAdaFocus
from ops.engine import accumulate_gradients
from ops.errors import EXIT_DONE, run_entry
from ops.inference_network import prepare_for_inference
from ops.optim import build_optimizer
from ops.setup import train_in_half
from opts import whole

NAMES = ("yardstick", "ours")
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
    """The yardstick or ours: `step()` is an update and gives the loss terms, `evaluate()` gives the outputs.

    All have the same weights and videos, and every step the same random draws. `evaluate` keeps the weights that there
    are when it is first called.
    name: one of `NAMES`; precision, scope: of training, see `ops.setup.train_in_half`; evaluation: ours, of evaluation,
    which the published code does in float32; dtype: of the weights.
    """

    def __init__(
        self,
        name: str,
        arguments: argparse.Namespace,
        precision: str,
        scope: str = "backbones",
        evaluation: str = "float32",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.evaluation = name, evaluation
        self.device = device = torch.device(arguments.device)
        self._evaluated: UniAdaFocus | None = None
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
            self.optimizer, self._update = build_optimizer(model, **SGD, **RATES), training_step
        if device.type == "cuda":
            self.frames = self.frames.pin_memory()
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        if precision != "float32":
            self.scaler = train_in_half(self.model, precision, scope, device)

    def step(self) -> Mapping[str, float | Tensor]:
        torch.manual_seed(0)
        return self._update(self.model.train(), self.frames, self.target, self.optimizer, self.scaler, self.device)

    @torch.inference_mode()
    def evaluate(self) -> Output:
        if self._evaluated is None:
            copied = copy.deepcopy(self.model).eval()
            self._evaluated = copied if self.name == "yardstick" else prepare_for_inference(copied, self.evaluation)
        if self.name == "yardstick":
            return baseline_evaluation(self._evaluated, self.frames, self.device)
        return self._evaluated(self.frames.to(self.device, non_blocking=True))

    def gradients(self) -> dict[str, Tensor]:
        """Those of the last step, of each parameter group in one piece."""
        return {
            group["name"]: torch.cat([p.grad.flatten() for p in group["params"] if p.grad is not None])
            for group in self.optimizer.param_groups
        }


def difference_in_double(arguments: argparse.Namespace) -> tuple[float, str]:
    """The largest difference of loss terms and gradients of a step in float64, on small frames, and where it is.

    In float32, rounding is amplified by 50 layers of random weights until the focus network's gradients have little in
    common; the same two programs in float64 tell whether they compute the same.
    """
    small, terms = argparse.Namespace(**vars(arguments) | SMALL), []
    for name in NAMES:
        contestant = Contestant(name, small, "float32", dtype=torch.float64)
        losses = contestant.step()
        terms.append({name: torch.as_tensor(value) for name, value in losses.items()} | contestant.gradients())
    return largest_difference(*terms)


def step_of(*contestant: object) -> Callable[[], object]:
    """A training step of `Contestant(*contestant)`, for `peak_memory`."""
    return Contestant(*contestant).step


def add_size_options(parser: argparse.ArgumentParser, batch_size: int, rounds: int) -> None:
    """Add the options of the sizes, published ones by default."""
    sizes = {"num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224}
    for name, default in (
        sizes | {"patch_size": 128, "classes": 200, "batch_size": batch_size, "rounds": rounds}
    ).items():
        parser.add_argument(f"--{name}", type=whole(1), default=default, help="default: %(default)s")


def table_row(title: str, seconds: Mapping[str, Sequence[float]], note: str) -> str:
    """Medians of the yardstick and ours, their ratio, and where they differ."""
    there, here = (median(seconds[name]) for name in NAMES)
    return f"{title:<22}{there:>10.3f}{here:>10.3f}{ratio(*(seconds[name] for name in NAMES)):>8.2f}  {note}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser, batch_size=1, rounds=2)
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=whole(1), default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("float32", "bfloat16", "float16"),
        default=["float32", "bfloat16"],
        help="of the two backbones in training (default: float32, then bfloat16)",
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    print(
        f"{device.type}, {arguments.threads} thread(s), PyTorch {torch.__version__}; {arguments.batch_size} video(s), "
        f"{arguments.rounds} round(s)\n{'':<22}{'yardstick':>10}{'ours':>10}{'ratio':>8}  largest difference"
    )
    for number, precision in enumerate(arguments.precision):
        memory = [peak_memory(step_of, name, arguments, precision) for name in NAMES]
        both = {name: Contestant(name, arguments, precision) for name in NAMES}
        if number == 0:
            ways = {name: contestant.evaluate for name, contestant in both.items()}
            seconds, outputs = take_turns(ways, arguments.rounds, device)
            difference, where = largest_difference(*(vars(outputs[name]) for name in NAMES))
            print(table_row("evaluation float32, s", seconds, f"{difference:.1e} of outputs ({where})"), flush=True)
        losses = {name: contestant.step() for name, contestant in both.items()}
        terms = [{k: torch.as_tensor(v).cpu() for k, v in losses[name].items()} for name in NAMES]
        note = "{:.1e} of losses ({}), ".format(*largest_difference(*terms))
        note += "{:.1e} of gradients ({})".format(*largest_difference(*(both[name].gradients() for name in NAMES)))
        steps = {name: contestant.step for name, contestant in both.items()}
        seconds, _ = take_turns(steps, arguments.rounds, device, warm_up=False)
        print(table_row(f"training {precision}, s", seconds, note))
        print(f"{'  memory, GB':<22}{memory[0]:>10.2f}{memory[1]:>10.2f}{memory[0] / memory[1]:>8.2f}", flush=True)
    difference, where = difference_in_double(arguments)
    print(f"a training step in float64, small: {difference:.1e} of losses and gradients ({where})")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
