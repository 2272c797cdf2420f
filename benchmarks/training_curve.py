"""Do losses fall as in the published training, with dropout and every random draw in place?

    python -m benchmarks.training_curve
    python -m benchmarks.training_curve --runs 2 --steps 12

Trains on the recipe of tests/reference/training_curve.json, which holds the mean loss terms of six runs of the
published program and how far single runs lie apart, and prints for each window of steps and each term both means and
their distance in standard deviations of that distance. One step without dropout, which tests compare to the last digit,
cannot show where dropout stands or what is drawn. A run of all 28 steps takes a minute on two cores.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from models.uni_adafocus import UniAdaFocus
from ops.losses import training_losses
from ops.optim import build_optimizer
from ops.utils.errors import EXIT_DONE, run_entry
from opts import whole
from tests.reference import recipe

REFERENCE = Path(recipe.__file__).with_name("training_curve.json")
CLIPS = 16  # in four batches, which take turns
Losses = list[dict[str, float]]  # the terms of each step


def read_reference() -> dict:
    """The published curve: `config`, `runs` and `windows`."""
    return json.loads(REFERENCE.read_text())


def train(config: dict, seed: int, steps: int) -> Losses:
    """The loss terms of a training from the recipe's weights; the seed decides what is drawn at random."""
    model = UniAdaFocus(
        **{name: config[name] for name in ("num_classes", "num_segments", "num_glance_segments", "num_focus_segments")},
        **{name: config[name] for name in ("patch_size", "dropout", "fc_dropout")},
    )
    layout = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in recipe.weights(layout).items()})
    rates = {name: config[name] for name in config if name.endswith("lr_ratio")}
    optimizer = build_optimizer(
        model.train(), lr=config["lr"], momentum=config["momentum"], weight_decay=config["weight_decay"], **rates
    )
    clips = [torch.from_numpy(recipe.clip(f"curve{i}", config["num_segments"])) for i in range(CLIPS)]
    frames = torch.stack(clips).unflatten(1, (config["num_segments"], 3))  # [16, T, 3, 224, 224]
    torch.manual_seed(seed)
    found = []
    for step in range(steps):
        rows = torch.arange(config["batch"]) + config["batch"] * (step % (CLIPS // config["batch"]))
        losses = training_losses(
            model(frames[rows]), rows % config["num_classes"], config["KL_ratio"], config["norm_ratio"]
        )
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        found.append({name: float(term.detach()) for name, term in losses.items()})
    return found


def distances(reference: dict, runs: Sequence[Losses]) -> Iterator[tuple[str, str, float, float, float]]:
    """For each window that the runs reach, and each term: window, term, published mean, ours, and their difference in
    standard deviations of the difference of two such means."""
    for window, terms in reference["windows"].items():
        first, last = map(int, window.split(".."))
        if last >= len(runs[0]):
            continue
        for name, published in terms.items():
            ours = float(np.mean([[step[name] for step in run[first : last + 1]] for run in runs]))
            deviation = published["std_of_a_run"] * (1 / reference["runs"] + 1 / len(runs)) ** 0.5
            yield window, name, published["mean"], ours, (ours - published["mean"]) / deviation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=whole(1), default=6, help="trainings to average (default: 6)")
    parser.add_argument("--steps", type=whole(4), default=28, help="of each, 4 to 28 (default: 28)")
    options = parser.parse_args(arguments)
    reference = read_reference()
    runs: list[Losses] = []
    for seed in range(options.runs):
        runs.append(train(reference["config"], seed, options.steps))
        print(f"run {seed + 1} of {options.runs}: last loss {runs[-1][-1]['loss']:.3f}", flush=True)
    print("steps    term      published     ours  deviations")
    for window, name, published, ours, distance in distances(reference, runs):
        print(f"{window:8s} {name:8s} {published:10.4f} {ours:8.4f} {distance:11.1f}")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
