"""Proof that it learns: trains on toy videos with several seeds, and measures what the policies are worth.

    python -m ops.toy_results                 # as `make results` does
    python -m ops.toy_results --seeds 3 --parallel 3 --root_log log/toy_results --out results

The last line then reads

    done: 3 seeds; results/toy.md, toy.json and toy_early_exit.png

Each seed is trained by main.py in ROOT_LOG/seed_N, and its last checkpoint, which no validation figure chose, goes
through --set_ablation, ops.policy_report and the early-exit script. What is done already is not done again. All figures
are read from the files that these leave.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ops import checkpoint
from ops.ablation import FILE_NAME as ABLATION
from ops.errors import EXIT_DONE, UserError, run_entry
from ops.exit_curve import CRITERIA
from ops.exit_files import curve_file, thresholds_file
from ops.exit_logits import FILE_NAME as EXIT_LOGITS
from ops.metrics import main_metric
from ops.session import run_folder
from ops.setup import ROOT
from ops.toy_dataset import ToySettings, make_toy_dataset
from ops.toy_tables import draw_curves, markdown, over_seeds
from ops.whole_file import whole_file
from opts import build_parser, parse_options

# What the results are made with: the videos (`ops.toy_dataset.ToySettings`), and options of main.py for --dataset toy.
# Frames of 128 pixels give glance maps of 4 x 4 cells. On those of 64 pixels, with 2 x 2 cells that each see the whole
# frame, the spatial policy has nothing to tell places apart by. `norm_ratio` would make patches as large as the frame.
RESULT_DATA: dict[str, int] = {"num_train": 400, "num_val": 120, "frames": 16, "height": 144, "width": 168}
RESULT_OPTIONS: dict[str, Any] = {
    "num_segments": 8, "num_glance_segments": 4, "num_focus_segments": 2, "input_size": 128, "patch_size": 64,
    "epochs": 9, "batch_size": 16, "lr": 0.01, "global_lr_ratio": 0.6, "stn_lr_ratio": 0.2, "temporal_lr_ratio": 0.2,
    "classifier_lr_ratio": 0.02, "norm_ratio": 0.0, "workers": 1,
}  # fmt: skip

REPORT = "policy_report.json"
SETTINGS = "settings.json"


def make_results(
    seeds: int, parallel: int, data: Mapping[str, int], options: Mapping[str, Any], data_dir: Path, log: Path, out: Path
) -> None:
    """Train, measure and write toy.md, toy.json and toy_early_exit.png into `out`.

    parallel: how many seeds at a time; data, options: as `RESULT_DATA` and `RESULT_OPTIONS`; data_dir: where the videos
    are or will be; log: where the runs are or will be. Raises UserError where a step fails, with its last line.
    """
    settings = {"data": dict(data), "options": dict(options)}
    _refuse_other_settings(log / SETTINGS, settings)
    make_toy_dataset(data_dir, ToySettings(**data))
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    given += ["--dataset", "toy", "--data_dir", str(data_dir.resolve())]
    with ThreadPoolExecutor(parallel) as pool:
        found = list(pool.map(partial(run_seed, given=given, log=log.resolve()), range(seeds)))
    results = {"settings": settings, "seeds": found, "over_seeds": over_seeds(found)}
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("toy.json", json.dumps(results, indent=1) + "\n"), ("toy.md", markdown(results))):
        with whole_file(out / name) as file:
            file.write(text.encode())
    draw_curves(out / "toy_early_exit.png", results)


def run_seed(seed: int, given: Sequence[str], log: Path) -> dict[str, Any]:
    """Train with one seed and measure, as far as that is not done; all that the files of the run say."""
    command = [*given, "--seed", str(seed), "--root_log", str(log / f"seed_{seed}")]
    options = parse_options(build_parser("one seed"), command)
    folder = run_folder(options)
    last = folder / checkpoint.LAST
    if not _is_trained(folder, options.epochs):
        _step(seed, f"training; see {folder / 'log.csv'}", ["main.py", *command, "--resume", "auto"])
    resume = ["--resume", str(last)]
    report = ["-m", "ops.policy_report", *resume, "--data_dir", options.data_dir, "--json", str(folder / REPORT)]
    for name, made, arguments in (
        ("ablation", folder / ABLATION, ["main.py", *command, "--evaluate", *resume, "--set_ablation"]),
        ("policies against the truth", folder / REPORT, report),
        ("early exit", folder / "early_exit.png", ["test_early_exit_uni_adafocus.py", *command, *resume]),
    ):
        if not made.is_file() or made.stat().st_mtime < last.stat().st_mtime:
            _step(seed, name, arguments)
    return {
        "seed": seed,
        "ablation": _rows(folder / ABLATION),
        "policies": json.loads((folder / REPORT).read_text()),
        "early_exit": {criterion: _rows(curve_file(folder, criterion)) for criterion in CRITERIA},
        "fixed_exits": _fixed_exits(folder),
    }


def _step(seed: int, name: str, arguments: Sequence[str]) -> None:
    print(f"seed {seed}: {name}", flush=True)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"seed {seed}, {name}: {lines[-1]}")


def _is_trained(folder: Path, epochs: int) -> bool:
    """Whether the checkpoint of the last epoch is there: it is written after that epoch's record."""
    records, last = folder / "metrics.jsonl", folder / checkpoint.LAST
    if not (records.is_file() and last.is_file() and last.stat().st_mtime >= records.stat().st_mtime):
        return False
    return json.loads(records.read_text().splitlines()[-1])["epoch"] == epochs - 1


def _refuse_other_settings(path: Path, settings: Mapping[str, Any]) -> None:
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise UserError(
            f"{path.parent} holds runs with other settings ({path}): remove it, or choose another --root_log"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(settings) + "\n").encode())


def _rows(path: Path) -> list[dict[str, Any]]:
    """A CSV file's rows, numbers as numbers."""

    def value(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    with open(path, newline="") as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def _fixed_exits(folder: Path) -> list[dict[str, float]]:
    """Cost and accuracy of all videos leaving at the same exit."""
    costs = json.loads(thresholds_file(folder, CRITERIA[0]).read_text())["exit_gflops"]
    with np.load(folder / EXIT_LOGITS) as kept:
        logits, labels = kept["val_logits"], kept["val_labels"]
    return [
        {"gflops": cost, "metric": main_metric(logits[:, number], labels, "accuracy")}
        for number, cost in enumerate(costs)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the results as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train and measure on toy videos, over several seeds.")
    parser.add_argument("--seeds", type=int, default=3, help="how many runs (default: 3)")
    parser.add_argument("--parallel", type=int, default=1, help="of them at a time (default: 1)")
    parser.add_argument("--data_dir", type=Path, default=Path("data/toy_results"), help="default: data/toy_results")
    parser.add_argument("--root_log", type=Path, default=Path("log/toy_results"), help="default: log/toy_results")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: results")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.parallel < 1:
        raise UserError("--seeds and --parallel must be at least 1")
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // given.parallel)))  # of each run
    make_results(given.seeds, given.parallel, RESULT_DATA, RESULT_OPTIONS, given.data_dir, given.root_log, given.out)
    print(f"done: {given.seeds} seeds; {given.out / 'toy.md'}, toy.json and toy_early_exit.png")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
