"""What a GPU makes of it: speed against the yardstick, memory, the share of the chip's peak, and where the time goes.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --batch_size 32 --rounds 5
    python -m benchmarks.gpu --only bfloat16$ exit      # rows whose name has a match of one of these expressions
    python -m benchmarks.gpu --peak_tflops 197          # a chip whose bfloat16 peak is not in the table

At the published sizes, with --steps steps between two looks at the clock: training and evaluation of the yardstick
(`yardstick.py`) and of ours in every precision, with TF32 as PyTorch has it (in convolutions only) and off, compiled or
not, and ours with NCHW backbones; training from frames on disk, data workers included; early exit; the two backbones
alone. Last, the ten operations that take most of a training step. The rows also go into --output as JSON, after each.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import early_exit, loading
from benchmarks.baseline import Contestant, evaluation_row
from benchmarks.measuring import NAMES, SIZES, Row, median, row_of, run, take_turns
from benchmarks.yardstick import LOSSES
from ops.data.dataset import VideoDataset
from ops.data.loaders import TrainingBatches, open_loader
from ops.engine import TrainingState, train_steps
from ops.setup import compile_backbones
from ops.utils.cores import available_cores
from ops.utils.errors import UserError, run_entry
from ops.utils.files import whole_file

OPTIONS = SIZES | {
    "batch_size": 16, "rounds": 3, "steps": 10, "device": "cuda", "peak_tflops": 0.0, "output": "results/gpu.json",
    "only": [""],
}  # fmt: skip

# Dense bfloat16 TFLOP/s without sparsity, from NVIDIA's data sheets; the first name that the device's contains.
PEAKS = {"H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.4, "H200": 989.4, "A100": 312.0}


@dataclass(frozen=True)
class Way:
    """A way to train. The yardstick trains in `published` precision, ours as the rest says."""

    title: str
    published: str = "float32"
    precision: str = "float32"  # of the parts in `scope`; see `ops.setup.train_in_half`
    scope: str = "backbones"
    tf32: bool = True  # in convolutions
    again: bool = False  # activations computed again in the backward pass
    compiled: bool = False
    channels_last: bool = True
    tuned: bool = False  # cudnn.benchmark: tries its algorithms out in the first step


SEMI_AMP = Way("semi-AMP bfloat16", "float16", "bfloat16")
TRAINING = (
    Way("float32, TF32 default"),
    Way("float32, TF32 off", tf32=False),
    Way("semi-AMP float16", "float16", "float16"),
    SEMI_AMP,
    Way("semi-AMP bfloat16, NCHW", "float16", "bfloat16", channels_last=False),
    Way("semi-AMP | all bfloat16", "float16", "bfloat16", "all"),
    Way("semi-AMP | --checkpoint_activations", "float16", "bfloat16", again=True),
    Way("float32, TF32 default, NCHW", channels_last=False),
    Way("semi-AMP bfloat16, --compile", "float16", "bfloat16", compiled=True),
    Way("semi-AMP bfloat16, cudnn.benchmark", "float16", "bfloat16", tuned=True),
    Way("semi-AMP float16, cudnn.benchmark", "float16", "float16", tuned=True),
    Way("semi-AMP float16, --compile", "float16", "float16", compiled=True),
    Way("float32, TF32 default, --compile", compiled=True),
)
# Title, whether TF32 is allowed, our precision and whether ours is compiled; the yardstick is float32 as it is.
EVALUATION = (
    ("float32, TF32 default", True, "float32", False),
    ("float32, TF32 default, --compile", True, "float32", True),
    ("float32, TF32 off", False, "float32", False),
    ("float32 | float16", True, "float16", False),
    ("float32 | bfloat16", True, "bfloat16", False),
    ("float32 | float16, --compile", True, "float16", True),
    ("float32 | bfloat16, --compile", True, "bfloat16", True),
)


def allow_tf32(allowed: bool) -> None:
    """PyTorch's default is to allow it in convolutions and not in matrix products."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = False


def peak_of(device_name: str) -> float | None:
    """TFLOP/s in bfloat16 of the device with that name; None where it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)


def contestant(name: str, way: Way, arguments: argparse.Namespace) -> Contestant:
    """The yardstick or ours, as the way says."""
    if name == "yardstick":
        return Contestant(name, arguments, way.published)
    ours = Contestant(name, arguments, way.precision, way.scope, way.again)
    if not way.channels_last:
        for parameter in ours.model.parameters():
            parameter.data = parameter.data.contiguous()
        for group in ours.optimizer.param_groups:  # gradients of 1 x 1 kernels have other strides, which fused refuses
            group.update(fused=False, foreach=True)
    if way.compiled:
        compile_backbones(ours.model)
    return ours


def training_row(way: Way, arguments: argparse.Namespace, flops: int, peak: float | None) -> Row:
    """Videos per second of training steps; the memory of each, ours beside the peak, and how busy the device was.

    flops: of a step of ours.
    """
    allow_tf32(way.tf32)
    torch.backends.cudnn.benchmark = way.tuned
    steps, memory, first = {}, {}, {}
    for name in NAMES:
        held = _memory(arguments.device, peak=False)
        step = contestant(name, way, arguments).step
        steps[name] = partial(_repeat, step, arguments.steps)
        started = time.perf_counter()
        float(step()["loss"])  # waits for the device
        first[name] = time.perf_counter() - started
        step()  # has the optimizer's momenta
        memory[name] = (_memory(arguments.device) - held) / 1e9
    seconds, _ = take_turns(steps, arguments.rounds, arguments.device, warm_up=False)
    rate = flops * arguments.steps / median(seconds["ours"]) / 1e12
    torch.backends.cudnn.benchmark = False
    remarks = [
        "{yardstick:.2f} and {ours:.2f} GB".format(**memory),
        f"first step {first['ours']:.1f} s",
        f"{rate:.3g} TFLOP/s{_share(rate, peak)}",
    ]
    if arguments.device.startswith("cuda"):
        remarks.append(f"device busy for {100 * _busy(steps['ours']):.0f} % of the time")
    videos = arguments.batch_size * arguments.steps
    return row_of(f"training, {way.title}, videos/s", seconds, "; ".join(remarks), videos)


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


def _memory(device: str, peak: bool = True) -> int:
    """Bytes of the GPU at the peak since this was asked for without `peak`, which gives those now; 0 on a CPU."""
    if not device.startswith("cuda"):
        return 0
    if peak:
        return torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _share(rate: float, peak: float | None) -> str:
    return f", {100 * rate / peak:.1f} % of the peak, {peak:g}" if peak else ""


def _busy(work: Callable[[], object]) -> float:
    """The share of the wall time in which a kernel ran; above 1 where several do at once."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        started = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken = time.perf_counter() - started
    return sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6 / taken


def row_from_disk(arguments: argparse.Namespace) -> Row:
    """Training from JPEG frames by our data workers, one for each core, on the second pass over the videos."""
    ours, workers = contestant("ours", SEMI_AMP, arguments), available_cores()
    videos = arguments.batch_size * arguments.steps
    with tempfile.TemporaryDirectory() as folder:
        config = loading.write_videos(Path(folder), videos, quality=30)
        data = VideoDataset(config, "train", arguments.num_segments, arguments.input_size, training=True)
        state = TrainingState(ours.model, ours.model, ours.optimizer, ours.scaler)
        with open_loader(data, TrainingBatches(videos, arguments.batch_size, 0), workers, ours.device) as loader:
            for _ in range(2):
                started, waited = time.perf_counter(), 0.0
                for step in train_steps(state, loader, seed=0, **LOSSES):
                    waited += step.data_seconds
                float(step.figures["loss"])  # waits for the device
                taken = time.perf_counter() - started
    remark = f"{workers} workers; {100 * waited / taken:.0f} % of the time waiting for frames, the first ones included"
    return Row("training from frames on disk, semi-AMP bfloat16, videos/s", None, videos / taken, None, remark)


def early_exit_rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """`benchmarks.early_exit` for single videos and for batches of 32."""
    for batch_size in (1, 32):
        options = (
            early_exit.OPTIONS | vars(arguments) | {"batch_size": batch_size, "videos": max(8, batch_size), "p": [10]}
        )
        yield from early_exit.measure(argparse.Namespace(**options))


def backbone_rows(ours: Contestant, arguments: argparse.Namespace, peak: float | None) -> Iterator[Row]:
    """TFLOP/s of each backbone in bfloat16, in training and evaluation, with the images of one step."""
    model, device, videos = ours.model.train(), ours.device, arguments.batch_size
    sides = (arguments.input_size, arguments.patch_size)
    numbers = (videos * arguments.num_glance_segments, 2 * videos * arguments.num_focus_segments)
    for name, number, side in zip(("global_CNN", "local_CNN"), numbers, sides, strict=True):
        network = getattr(model, name)
        images = torch.randn(number, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)

        def train(network: torch.nn.Module = network, images: torch.Tensor = images) -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                maps = network.train()(images)
            network.zero_grad(set_to_none=True)
            maps.float().mean().backward()

        @torch.inference_mode()
        def evaluate(network: torch.nn.Module = network, images: torch.Tensor = images) -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                network.eval()(images)

        for what, work in (("training", train), ("evaluation", evaluate)):
            with FlopCounterMode(display=False) as counter:
                work()
            repeated = {name: partial(_repeat, work, arguments.steps)}
            seconds, _ = take_turns(repeated, arguments.rounds, arguments.device, warm_up=False)
            rate = counter.get_total_flops() * arguments.steps / median(seconds[name]) / 1e12
            title = f"{name} alone, {what}, bfloat16, TFLOP/s"
            yield Row(title, None, rate, None, _share(rate, peak).removeprefix(", "))


def slowest_operations(ours: Contestant, number: int = 10) -> str:
    """A table of the operations that take most of a training step."""
    on_gpu = ours.device.type == "cuda"
    ours.step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        ours.step()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=order, row_limit=number, max_name_column_width=60)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """The rows asked for, which are written as JSON one by one; then the slowest operations are printed."""
    on_gpu = arguments.device.startswith("cuda")
    try:
        wanted = re.compile("|".join(f"(?:{pattern})" for pattern in arguments.only))
    except re.error as error:
        raise UserError(f"--only {' '.join(arguments.only)}: not a regular expression: {error}") from None
    found = {
        "device": torch.cuda.get_device_name(arguments.device) if on_gpu else "CPU",
        "torch": torch.__version__,
        "options": vars(arguments),
        "rows": [],
    }
    for title, rows in _parts(arguments):
        if wanted.search(title):
            for row in rows():
                found["rows"].append(asdict(row))
                with whole_file(Path(arguments.output)) as file:
                    file.write(json.dumps(found, indent=1).encode())
                yield row
    ours = contestant("ours", SEMI_AMP, arguments)
    print(f"\na training step of ours, {SEMI_AMP.title}\n{slowest_operations(ours)}")


def _parts(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Iterable[Row]]]]:
    """What --only chooses from, and how to get its rows."""
    on_gpu = arguments.device.startswith("cuda")
    peak = arguments.peak_tflops or (peak_of(torch.cuda.get_device_name(arguments.device)) if on_gpu else None)
    with FlopCounterMode(display=False) as counter:  # the same in every way to train, and not seen in compiled ones
        Contestant("ours", arguments).step()
    flops = counter.get_total_flops()
    for way in TRAINING:
        yield f"training, {way.title}", partial(_one, training_row, way, arguments, flops, peak)
    both = {name: Contestant(name, arguments) for name in NAMES}
    for title, tf32, precision, compiled in EVALUATION:
        if on_gpu or precision != "float16":  # `prepare_for_inference` has none on a CPU
            row = partial(_one, _evaluation_row, tf32, title, both, arguments, precision, compiled)
            yield f"evaluation, {title}", row
    both.clear()
    allow_tf32(True)
    yield "training from frames on disk", partial(_one, row_from_disk, arguments)
    yield "early exit", partial(early_exit_rows, arguments)
    yield "backbones alone", lambda: backbone_rows(contestant("ours", SEMI_AMP, arguments), arguments, peak)


def _one(row: Callable[..., Row], *arguments: object) -> Iterator[Row]:
    yield row(*arguments)


def _evaluation_row(tf32: bool, *arguments: object) -> Row:
    allow_tf32(tf32)
    return evaluation_row(*arguments)


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
