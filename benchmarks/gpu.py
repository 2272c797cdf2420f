"""What a GPU makes of it: speed against the yardstick, memory, the share of the chip's peak, and where the time goes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --batch_size 32 --rounds 20
    python benchmarks/gpu.py --peak_tflops 197          # a chip whose bfloat16 peak is not in the table

No figure from a GPU exists yet: nobody has run this on one. It has only been tried on a CPU, with tiny sizes
(`--device cpu --num_segments 6 ...`), to see that it works.

Prints, at the published sizes: videos per second in training and in evaluation, of the yardstick (`baseline.py`) and of
ours, in float32 with TF32 as PyTorch has it (in convolutions only) and off, with the backbones in half precision, and
in bfloat16 throughout; the published evaluation is always in float32. Beside training stands the memory at the peak of
a step. Then the rate at which the two backbones compute alone, and its share of the chip's bfloat16 peak; and the ten
operations that take most of a training step.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ops.waiting import wait_briefly

    wait_briefly()  # before torch is loaded

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.baseline import NAMES, Contestant, add_size_options
from benchmarks.measuring import median, ratio, take_turns
from ops.errors import EXIT_DONE, UserError, run_entry
from opts import positive

# Dense bfloat16 TFLOP/s without sparsity, from NVIDIA's data sheets; the first name that the device's contains.
PEAKS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "A100": 312.0}

# Title, whether TF32 is allowed, and precision and scope of training: the yardstick's, then ours.
TRAINING = (
    ("float32, TF32 default", True, ("float32", "backbones"), ("float32", "backbones")),
    ("float32, TF32 off", False, ("float32", "backbones"), ("float32", "backbones")),
    ("semi-AMP", True, ("auto", "backbones"), ("auto", "backbones")),
    ("semi-AMP | all bfloat16", True, ("auto", "backbones"), ("bfloat16", "all")),
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


def memory_allocated(device: torch.device, peak: bool = False) -> float:
    """GB of the GPU's memory that tensors take now, or took at most since that was last asked; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    if peak:
        return torch.cuda.max_memory_allocated(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / 1e9


def row(title: str, seconds: dict[str, list[float]], videos: int) -> str:
    """Videos per second of both, and how many times as many are ours."""
    there, here = (videos / median(seconds[name]) for name in NAMES)
    return f"{title:<44}{there:>10.2f}{here:>10.2f}{ratio(*(seconds[name] for name in NAMES)):>8.2f}"


def backbone_rates(contestant: Contestant, arguments: argparse.Namespace) -> list[tuple[str, float]]:
    """(what, TFLOP/s) of each backbone in bfloat16, in training and evaluation, with the images of one step."""
    model, device, videos = contestant.model.train(), contestant.device, arguments.batch_size
    sides = (arguments.input_size, arguments.patch_size)
    numbers = (videos * arguments.num_glance_segments, 2 * videos * arguments.num_focus_segments)
    rates = []
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
            seconds, _ = take_turns({name: work}, arguments.rounds, device, warm_up=False)
            rates.append((f"{name}, {what}", counter.get_total_flops() / median(seconds[name]) / 1e12))
    return rates


def slowest_operations(contestant: Contestant, number: int = 10) -> str:
    """A table of the operations that take most of a training step."""
    on_gpu = contestant.device.type == "cuda"
    contestant.step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        contestant.step()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=number, max_name_column_width=60)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_size_options(parser, batch_size=16, rounds=10)
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--peak_tflops", type=positive, help="of the chip in bfloat16, dense (default: from its name)")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU here; --device cpu with tiny sizes only tries the script out")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = arguments.peak_tflops or peak_of(name)
    print(
        f"{name}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}; "
        f"{arguments.batch_size} video(s), {arguments.rounds} round(s)"
    )
    heads = f"{'':<44}{'yardstick':>10}{'ours':>10}{'ratio':>8}"
    print(f"\n{heads}  memory, GB: yardstick, ours")
    for title, tf32, *precisions in TRAINING:
        allow_tf32(tf32)
        both, memory = {}, []
        for who, precision in zip(NAMES, precisions, strict=True):
            before = memory_allocated(device)
            both[who] = Contestant(who, arguments, *precision)
            both[who].step()
            memory.append(memory_allocated(device, peak=True) - before)
        steps = {who: each.step for who, each in both.items()}
        seconds, _ = take_turns(steps, arguments.rounds, device, warm_up=False)
        line = row(f"training, videos/s: {title}", seconds, arguments.batch_size)
        print(f"{line}  {memory[0]:.2f}, {memory[1]:.2f}", flush=True)
        del both
    print(f"\n{heads}")
    for title, tf32, precision in EVALUATION:
        if precision == "float16" and device.type == "cpu":
            continue  # `prepare_for_inference` has none there
        allow_tf32(tf32)
        both = {who: Contestant(who, arguments, "float32", evaluation=precision) for who in NAMES}
        seconds, _ = take_turns({who: each.evaluate for who, each in both.items()}, arguments.rounds, device)
        print(row(f"evaluation, videos/s: {title}", seconds, arguments.batch_size), flush=True)
        del both
    ours = Contestant("ours", arguments, "auto")
    print("\nbackbones alone, bfloat16")
    for what, rate in backbone_rates(ours, arguments):
        print(f"  {what:<24}{rate:>10.3f} TFLOP/s" + (f", {100 * rate / peak:.1f} % of {peak:g}" if peak else ""))
    print(f"\na training step of ours in semi-AMP\n{slowest_operations(ours)}")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
