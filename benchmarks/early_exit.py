"""How much of what early exit promises in GFLOPs it saves in time.

    python benchmarks/early_exit.py
    python benchmarks/early_exit.py --batch_size 32 --videos 32
    python benchmarks/early_exit.py --device cuda --videos 64

A model with random weights runs on random clips. Thresholds are such that as many videos leave at each exit as
operating point P of the curve wants: a share proportional to (P / 20)^k. On every batch these run in turn:

    the model as it is, whole
    the prepared networks without exits, all patches at once, one prediction
    the same, patch after patch, with a check after each that no video passes
    inference with exits, patch after patch

Of each batch the fastest round counts, which is the one that others on the machine disturbed least. Printed is
the time saved over what the GFLOPs promise, 100 % being all of it: beside the same schedule without exits, which is
what leaving is worth, and beside the two that need no schedule, since many patches at once take less time than as many
single ones. The results are compared with the simulation's.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in benchmarks/
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ops.waiting import wait_briefly

    wait_briefly()  # before torch is loaded

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rows import Row
from models.uni_adafocus import UniAdaFocus
from ops.dynamic import EarlyExitInference, joined
from ops.dynamic_runner import MAY_DIFFER, agreement
from ops.errors import EXIT_DONE, EXIT_WITH_FAILURES, UserError, run_entry
from ops.exit_curve import criterion_values
from ops.flops import exit_gflops
from ops.inference_network import prepare_for_inference

CRITERION = "confidence"
FRAMES_FOR_STATISTICS = 8


def random_model(arguments: argparse.Namespace) -> UniAdaFocus:
    """A model in evaluation mode whose batch norms have the statistics of random clips, so that videos differ."""
    torch.manual_seed(0)
    model = UniAdaFocus(
        arguments.classes,
        arguments.num_segments,
        arguments.num_glance_segments,
        arguments.num_focus_segments,
        arguments.patch_size,
        arguments.input_size,
    )
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the running statistics become those of the one batch below
    with torch.no_grad():
        model.train()
        glance = model.glance(random_clips(1, arguments))
        model.decide(glance)
        patches = torch.randn(FRAMES_FOR_STATISTICS, 3, arguments.patch_size, arguments.patch_size)
        features = model.local_CNN(patches).mean(dim=(-2, -1))
        model.classifier.global_mlp(glance.features[0])
        model.classifier.local_mlp(features)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def random_clips(videos: int, arguments: argparse.Namespace) -> Tensor:
    """Coarse random pictures, other ones in each video, that change a little over time: uint8 [N, T, 3, H, W]."""
    shape = (videos, arguments.num_segments, 3, 7, 7)
    coarse = torch.rand(videos, 1, 3, 7, 7) * 0.7 + torch.rand(shape) * 0.3
    side = arguments.input_size
    clips = torch.empty(videos, arguments.num_segments, side, side, 3, dtype=torch.uint8)
    for clip, pictures in zip(clips, coarse, strict=True):
        large = F.interpolate(pictures, size=(side, side), mode="bilinear")
        clip.copy_((255 * large).to(torch.uint8).permute(0, 2, 3, 1))
    return clips.permute(0, 1, 4, 2, 3)


def videos_per_exit(videos: int, exits: int, p: int) -> list[int]:
    """How many of the videos leave at each exit: the shares of operating point p, as nearly as whole numbers allow."""
    shares = (p / 20) ** np.arange(1, exits + 1)
    quantiles = (np.arange(videos) + 0.5) / videos
    exit_numbers = np.searchsorted(np.cumsum(shares / shares.sum()), quantiles)
    return np.bincount(np.minimum(exit_numbers, exits - 1), minlength=exits).tolist()


def thresholds_for(values: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Thresholds, all finite, with which counts[k] of the videos, whose values are [N, K], leave at exit k.

    Halfway between two videos' values, so that rounding moves no video.
    """
    still_there = np.arange(len(values))
    thresholds = []
    for k, count in enumerate(counts[:-1]):
        order = still_there[np.argsort(-values[still_there, k])]
        bounds = [values[order[0], k] + 1, *values[order, k], values[order[-1], k] - 1] if len(order) else [0, 0]
        thresholds.append((bounds[count] + bounds[count + 1]) / 2)
        still_there = order[count:]
    return np.array([*thresholds, -np.inf], dtype=np.float32)


def fastest_rounds(
    ways: Sequence[Callable[[Tensor], object]], batches: Sequence[Tensor], rounds: int
) -> tuple[np.ndarray, list[list[object]]]:
    """Seconds of each way, the sum of each batch's fastest round, and what each way gave for each batch."""
    seconds = np.empty((rounds, len(batches), len(ways)))
    results: list[list[object]] = [[None] * len(batches) for _ in ways]
    for way in ways:
        way(batches[0][:1])  # the first call of anything is slow
    for turn, (number, batch) in itertools.product(range(rounds), enumerate(batches)):
        for place in range(len(ways)):
            way = (place + turn + number) % len(ways)
            started = time.perf_counter()
            results[way][number] = ways[way](batch)
            seconds[turn, number, way] = time.perf_counter() - started
    return seconds.min(axis=0).sum(axis=0), results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224}
    for name, default in (
        sizes | {"patch_size": 128, "classes": 200, "videos": 8, "batch_size": 1, "rounds": 2}
    ).items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--focus_chunk", type=int, default=1, help="patches between checks (default: %(default)s)")
    parser.add_argument("--p", type=int, nargs="+", default=[10, 15, 19], help="operating points (default: 10 15 19)")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if min(arguments.videos, arguments.batch_size, arguments.rounds) < 1 or not all(1 <= p <= 19 for p in arguments.p):
        raise UserError("--videos, --batch_size and --rounds must be 1 or more, and --p from 1 to 19")
    agree, _ = compare(arguments)
    return EXIT_DONE if agree else EXIT_WITH_FAILURES


def compare(arguments: argparse.Namespace) -> tuple[bool, list[Row]]:
    """Measure and print; whether results agree with the simulation, and what each operating point comes to."""
    device = torch.device(arguments.device)
    plain = random_model(arguments).to(device)
    gflops = exit_gflops(plain)
    model = prepare_for_inference(plain)
    clips = random_clips(arguments.videos, arguments).to(device)
    batches = clips.split(arguments.batch_size)
    exits = len(gflops)

    with torch.no_grad():
        last_glance = arguments.num_glance_segments - 1
        simulated = torch.cat([model(batch).step_logits[:, last_glance:].cpu() for batch in batches])
        values = criterion_values(simulated, CRITERION).numpy()
        unreachable = np.finfo(np.float32).max
        thresholds = [np.full(exits, np.inf), np.full(exits, unreachable)]
        thresholds += [thresholds_for(values, videos_per_exit(arguments.videos, exits, p)) for p in arguments.p]
        engines = [EarlyExitInference(model, row, CRITERION, arguments.focus_chunk) for row in thresholds]
        seconds, results = fastest_rounds(
            [lambda batch: plain(batch).logits.cpu(), *engines], batches, arguments.rounds
        )

    milliseconds = 1000 * seconds / arguments.videos
    whole, at_once, in_turn = milliseconds[:3]
    print(f"{device.type}, {torch.get_num_threads()} thread(s), {arguments.videos} videos by {arguments.batch_size}")
    print(f"the model as it is              {whole:8.1f} ms per video, {gflops[-1]:.2f} GFLOPs")
    print(f"without exits, patches at once  {at_once:8.1f} ms per video")
    print(f"without exits, in turn          {in_turn:8.1f} ms per video")
    agree, rows = True, []
    for p, taken, answers, row in zip(arguments.p, milliseconds[3:], results[3:], thresholds[2:], strict=True):
        result = joined(answers)
        cost = float(np.array(gflops)[result.exits].mean())
        promised = 1 - cost / gflops[-1]
        kept = [100 * (1 - taken / reference) / promised for reference in (in_turn, at_once, whole)]
        print(f"with exits, p = {p:<2}              {taken:8.1f} ms per video, {cost:.2f} GFLOPs")
        print(f"    {100 * promised:.1f} % of the GFLOPs promised; of that share of the time, saved beside")
        print("    in turn {:.0f} %, patches at once {:.0f} %, the model as it is {:.0f} %".format(*kept))
        same, apart = agreement(result, simulated, row, CRITERION)
        print(f"    {same} of {arguments.videos} videos with the simulation's exit and class")
        agree = agree and arguments.videos - same <= max(1, MAY_DIFFER * arguments.videos)
        what = f"early exit, p = {p} ({100 * promised:.0f} % fewer GFLOPs), ms/video"
        difference = f"{apart:.1e} of the simulation's logits"
        rows.append(Row(what, at_once, taken, at_once / taken, difference))
    return agree, rows


if __name__ == "__main__":
    run_entry(main)
