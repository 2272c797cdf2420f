"""What a GPU makes of it: speed against the yardstick, memory, the share of the chip's peak, and where the time goes.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --batch_size 32 --rounds 20
    python -m benchmarks.gpu --peak_tflops 197          # a chip whose bfloat16 peak is not in the table

No figure from a GPU exists yet: nobody has run this on one. It has only been tried on a CPU, with tiny sizes
(`--device cpu --num_segments 6 ...`), to see that it works.

At the published sizes: training and evaluation of the yardstick (`yardstick.py`) and of ours, in float32 with TF32 as
PyTorch has it (in convolutions only) and off, with the backbones in half precision, and in bfloat16 throughout; the
published evaluation is always in float32. Then the rate at which the two backbones compute alone, and its share of the
chip's bfloat16 peak; and the ten operations that take most of a training step.
"""

import argparse
from collections.abc import Iterator
from functools import partial

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import Contestant, evaluation_row, training_rows
from benchmarks.measuring import NAMES, SIZES, Row, median, run, take_turns
from ops.utils.errors import run_entry

OPTIONS = SIZES | {"batch_size": 16, "rounds": 10, "device": "cuda", "peak_tflops": 0.0}

# Dense bfloat16 TFLOP/s without sparsity, from NVIDIA's data sheets; the first name that the device's contains.
PEAKS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "A100": 312.0}

# Title, whether TF32 is allowed, and what `Contestant` takes after the options: the yardstick's, then ours.
TRAINING = (
    ("float32, TF32 default", True, ("float32",), ("float32",)),
    ("float32, TF32 off", False, ("float32",), ("float32",)),
    ("semi-AMP", True, ("auto",), ("auto",)),
    ("semi-AMP | all bfloat16", True, ("auto",), ("bfloat16", "all")),
    ("semi-AMP | --checkpoint_activations", True, ("auto",), ("auto", "backbones", True)),
)
# Title, whether TF32 is allowed, and our precision; the yardstick's is float32.
EVALUATION = (
    ("float32, TF32 default", True, "float32"),
    ("float32, TF32 off", False, "float32"),
    ("float32 | bfloat16", True, "bfloat16"),
    ("float32 | float16", True, "float16"),
)


def allow_tf32(allowed: bool) -> None:
    """PyTorch's default is to allow it in convolutions and not in matrix products."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False


def peak_of(device_name: str) -> float | None:
    """TFLOP/s in bfloat16 of the device with that name; None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def rate_rows(contestant: Contestant, arguments: argparse.Namespace, peak: float | None) -> Iterator[Row]:
    """TFLOP/s of each backbone in bfloat16, in training and evaluation, with the images of one step."""
    model, device, videos = contestant.model.train(), contestant.device, arguments.batch_size
    sides = (arguments.input_size, arguments.patch_size)
    numbers = (videos * arguments.num_glance_segments, 2 * videos * arguments.num_focus_segments)
    for name, number, side in zip(("global_CNN", "local_CNN"), numbers, sides, strict=True):
        network: nn.Module = getattr(model, name)
        images = torch.randn(number, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)

        def train(network: nn.Module = network, images: torch.Tensor = images) -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                maps = network.train()(images)
            network.zero_grad(set_to_none=True)
            maps.float().mean().backward()

        @torch.inference_mode()
        def evaluate(network: nn.Module = network, images: torch.Tensor = images) -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                network.eval()(images)

        for what, work in (("training", train), ("evaluation", evaluate)):
            with FlopCounterMode(display=False) as counter:
                work()
            seconds, _ = take_turns({name: work}, arguments.rounds, arguments.device, warm_up=False)
            rate = counter.get_total_flops() / median(seconds[name]) / 1e12
            share = f"{100 * rate / peak:.1f} % of the peak, {peak:g}" if peak else ""
            yield Row(f"{name} alone, {what}, bfloat16, TFLOP/s", None, rate, None, share)


def slowest_operations(contestant: Contestant, number: int = 10) -> str:
    """A table of the operations that take most of a training step."""
    on_gpu = contestant.device.type == "cuda"
    contestant.step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        contestant.step()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=number, max_name_column_width=60)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Training, evaluation, and the backbones alone; then the slowest operations are printed."""
    on_gpu = arguments.device != "cpu"
    peak = arguments.peak_tflops or (peak_of(torch.cuda.get_device_name(arguments.device)) if on_gpu else None)
    for title, tf32, *settings in TRAINING:
        allow_tf32(tf32)
        yield from training_rows(title, dict(zip(NAMES, settings, strict=True)), arguments)
    both = {name: Contestant(name, arguments) for name in NAMES}
    for title, tf32, precision in EVALUATION:
        if on_gpu or precision != "float16":  # `prepare_for_inference` has none on a CPU
            allow_tf32(tf32)
            yield evaluation_row(title, both, arguments, precision)
    del both
    ours = Contestant("ours", arguments, "auto")
    yield from rate_rows(ours, arguments, peak)
    print(f"\na training step of ours in semi-AMP\n{slowest_operations(ours)}")


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
