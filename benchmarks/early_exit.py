"""How much of what early exit promises in GFLOPs it saves in time.

    python -m benchmarks.early_exit
    python -m benchmarks.early_exit --batch_size 32 --videos 32
    python -m benchmarks.early_exit --device cuda --videos 64

A model with random weights runs on random clips. Thresholds are such that as many videos leave at each exit as
operating point P of the curve wants: a share proportional to (P / 20)^k. On every batch these run in turn:

    the model as it is, whole
    the prepared networks without exits, all patches at once, one prediction
    the same, patch after patch, with a check after each that no video passes
    inference with exits, patch after patch

Each batch counts with its fastest round, which is the one that others on the machine disturbed least. Beside the
networks without exits, all patches at once, the table has the time saved as a share of what the GFLOPs promise: beside
the same schedule without exits, which is what leaving is worth, and beside the two that need no schedule, since many
patches at once take less time than as many single ones. The results are compared with the simulation's.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measuring import SIZES, Row, run, take_turns
from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import criterion_values
from ops.early_exit.inference import EarlyExitInference, joined
from ops.early_exit.measure import agreement
from ops.flops import exit_gflops
from ops.inference import float32_convolutions, prepare_for_inference
from ops.utils.errors import UserError, run_entry

OPTIONS = SIZES | {"videos": 8, "batch_size": 1, "rounds": 2, "focus_chunk": 1, "p": [10, 15, 19]}
CRITERION = "confidence"
FRAMES_FOR_STATISTICS = 8


def random_model(arguments: argparse.Namespace) -> UniAdaFocus:
    """A model in evaluation mode whose batch norms have the statistics of random clips, so that videos differ."""
    torch.manual_seed(0)
    sizes = {name: getattr(arguments, name) for name in SIZES}
    model = UniAdaFocus(sizes.pop("classes"), **sizes)
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


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """A row for each operating point. Raises UserError where exits or classes are not the simulation's."""
    if not all(1 <= p <= 19 for p in arguments.p):
        raise UserError("--p must be from 1 to 19")
    with float32_convolutions(), torch.no_grad():
        yield from _rows(arguments)


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    plain = random_model(arguments).to(arguments.device)
    gflops = np.array(exit_gflops(plain))
    model = prepare_for_inference(plain)
    batches = random_clips(arguments.videos, arguments).to(arguments.device).split(arguments.batch_size)
    last_glance = arguments.num_glance_segments - 1
    logits = torch.cat([model(batch).step_logits[:, last_glance:].cpu() for batch in batches])
    values = criterion_values(logits, CRITERION).numpy()
    thresholds = {p: thresholds_for(values, videos_per_exit(arguments.videos, len(gflops), p)) for p in arguments.p}
    thresholds |= {"at once": np.full(len(gflops), np.inf), "in turn": np.full(len(gflops), np.finfo(np.float32).max)}
    ways = {
        name: EarlyExitInference(model, row, CRITERION, arguments.focus_chunk) for name, row in thresholds.items()
    } | {"as it is": lambda batch: plain(batch).logits.cpu()}

    taken, outputs = dict.fromkeys(ways, 0.0), {name: [] for name in ways}  # milliseconds per video
    for batch in batches:
        works = {name: partial(way, batch) for name, way in ways.items()}
        seconds, results = take_turns(works, arguments.rounds, arguments.device)
        for name in ways:
            taken[name] += 1000 * min(seconds[name]) / arguments.videos
            outputs[name].append(results[name])
    for p in arguments.p:
        result = joined(outputs[p])
        promised = 1 - gflops[result.exits].mean() / gflops[-1]
        beside = {"in turn": "patches in turn", "at once": "all at once", "as it is": "the model as it is"}
        saved = {name: 100 * (1 - taken[p] / taken[name]) / promised for name in beside}
        shares = ", ".join(f"{saved[name]:.0f} % beside {words}" for name, words in beside.items())
        same, apart = agreement(result, logits, thresholds[p], CRITERION)
        if same < arguments.videos:
            raise UserError(f"operating point {p}: {same} of {arguments.videos} videos as in the simulation")
        yield Row(
            f"early exit, p = {p} ({100 * promised:.0f} % fewer GFLOPs), ms/video",
            taken["at once"],
            taken[p],
            taken["at once"] / taken[p],
            f"{apart:.1e} of the simulation's logits; saved of the time promised: {shares}",
        )


main = partial(run, __doc__, measure, OPTIONS)


if __name__ == "__main__":
    run_entry(main)
