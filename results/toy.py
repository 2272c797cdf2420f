"""Does it pay to look only where it matters? Trains on toy videos with several seeds, and measures what comes of it.

    python results/toy.py --parallel 2        # as `make results` does; within an hour on two idle cores
    python results/toy.py --seeds 3 --root_log log/toy_results --out results
    python results/toy.py --sizes published --seeds 2 --parallel 2      # 48 frames of 224, patches of 128: on a GPU

The last line then reads

    done: 5 seeds, 9 of 9 goals met; results/toy.md, toy.json and toy_early_exit.png

The backbones are pretrained once, by `ops.toy.pretrain`. Each seed is trained by main_semiAMP.py in ROOT_LOG/seed_N,
and its last checkpoint goes through --set_ablation, ops.toy.policies and the early-exit script. The videos are others
than those of `make demo`: no setting, epoch or seed was chosen on them, so that their validation split is a test split.
What is done already is not done again. All figures are read from the files that these leave. With --sizes published,
videos and network have the sizes of the published recipe, and the files are called toy_published_sizes.
"""

import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in results/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataset_config import get_dataset
from models.ablation import FRAME_POLICIES, PATCH_POLICIES
from ops import checkpoint
from ops.ablation import FILE_NAME as ABLATION
from ops.early_exit.curve import CRITERIA, ExitCurves, ExitPoint
from ops.early_exit.figure import early_exit_figure
from ops.early_exit.logits import FILE_NAME as EXIT_LOGITS
from ops.early_exit.run import PICTURE, halves
from ops.early_exit.thresholds import result_file
from ops.metrics import main_metric
from ops.report.files import write_json
from ops.report.style import save_png
from ops.setup import ROOT
from ops.toy.dataset import SETTINGS_FILE, ToySettings, make_toy_dataset
from ops.toy.pretrain import file_in
from ops.utils.cores import available_cores, workers_of_each
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from ops.utils.session import run_folder
from opts import OneLineParser, build_parser, parse_options, whole


@dataclass(frozen=True)
class Preset:
    """What results are made with, and what they are called."""

    sizes: str  # as --sizes says
    files: str  # the names of page, figures and picture begin with it
    folder: str  # of the videos in data/, of the runs in log/
    data: Mapping[str, int]  # as `ops.toy.dataset.ToySettings` has it
    options: Mapping[str, Any]  # beside those of --dataset toy
    calibrate_on: str  # of the early-exit script
    remark: str = ""  # about what was to be shown


DEMO = Preset("demo", "toy", "toy_results", {"num_train": 640, "num_val": 600, "seed": 4}, {"epochs": 4}, "val_half")
PUBLISHED = Preset(
    "published",
    "toy_published_sizes",
    "toy_published_sizes",
    # The badge is in three frames, of which one is glanced at; in the demo it is in four, likewise.
    {"num_train": 2000, "num_val": 400, "seed": 3, "frames": 48, "height": 252, "width": 252, "badge_percent": 6},
    {
        "epochs": 4, "num_segments": 48, "num_glance_segments": 16, "num_focus_segments": 16, "input_size": 224,
        "patch_size": 128,
    },
    "train",
    "The aims are those of the demo, and 16 steps leave room for luck: evenly spread frames show every badge once,\n"
    "and a patch of the base size is a third of the frame and taken three times while the badge is there, so that\n"
    "random ones and those in the centre often have it. What looking in the right place is worth shows in what it\n"
    "takes to get there: see early exit, and the focus steps alone.",
)  # fmt: skip
PRESETS = {preset.sizes: preset for preset in (DEMO, PUBLISHED)}
REPORT = "policy_report.json"
SHOWN_POINTS = (1, 5, 10, 15, 19)  # of the early-exit curve
CALIBRATED = {
    "train": "Thresholds from the training split, as published.",
    "val_half": "Thresholds from one half of the validation split, figures of the other half. Those of the training\n"
    "split, as published, are of frames and crops as in training, in which the badge is not always to be seen: the\n"
    "network is less sure there, and of the validation videos fewer then go on after the glance than planned.",
}
# Confidence, as published, is the largest raw logit, and that of the glance says little about its being right.
CRITERION = "entropy"


def make_results(
    preset: Preset, seeds: int, parallel: int, data_dir: Path, log: Path, out: Path
) -> list[dict[str, Any]]:
    """Train, measure and write the page, the figures and the picture into `out`; returns the goals.

    Args:
        preset: what with.
        seeds, parallel: how many, and how many at a time.
        data_dir, log: where videos and runs are or will be.

    Raises UserError where a step fails, with its last line, and where the runs have other settings.
    """
    settings, kept = settings_of(preset), log / "settings.json"
    if kept.is_file() and json.loads(kept.read_text()) != settings:
        raise UserError(f"{log} holds runs with other settings ({kept}): remove it, or choose another --root_log")
    log.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(settings) + "\n")
    cores = available_cores()
    if not (data_dir / SETTINGS_FILE).exists():  # by a process that does not load PyTorch, nor do those that it starts
        making = _as_options({**preset.data, "data_dir": data_dir, "workers": cores})
        run_step("videos", "ops/toy/dataset.py", making)
    make_toy_dataset(data_dir, ToySettings(**preset.data), workers=cores)
    # Processes that read frames belong to the machine, not to the settings.
    given = _as_options(
        {"workers": workers_of_each(parallel), **preset.options, "dataset": "toy", "data_dir": data_dir}
    )
    num_classes = get_dataset("toy", data_dir).num_classes
    options = parse_options(build_parser("any seed"), given)
    sizes = {name: getattr(options, name) for name in ("input_size", "patch_size")}
    if not file_in(data_dir, num_classes, options.glance_arch, **sizes).exists():
        learning = _as_options({"data_dir": data_dir, "glance_arch": options.glance_arch, **sizes})
        run_step("pretraining", "ops/toy/pretrain.py", learning)
    with ThreadPoolExecutor(parallel) as pool:
        measured = partial(run_seed, given=given, log=log, calibrate_on=preset.calibrate_on)
        found = list(pool.map(measured, range(seeds)))
    results = {"settings": settings, "goals": goals(found), "seeds": found, "over_seeds": over_seeds(found)}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{preset.files}.json", results)
    (out / f"{preset.files}.md").write_text(markdown(results, preset), encoding="utf-8")
    draw_curves(out / _picture(preset), results, preset)
    return results["goals"]


def settings_of(preset: Preset) -> dict[str, Any]:
    """What decides the figures, as the file of figures has it."""
    return {"data": dict(preset.data), "options": dict(preset.options), "calibrate_on": preset.calibrate_on}


def _as_options(values: Mapping[str, Any]) -> list[str]:
    """{"name": value} -> ["--name", "value"]."""
    return [text for name, value in values.items() for text in (f"--{name}", str(value))]


def _at_sizes(preset: Preset) -> str:
    return "" if preset.sizes == DEMO.sizes else f" at the {preset.sizes} sizes"


def _picture(preset: Preset) -> str:
    return f"{preset.files}_early_exit.png"


def run_seed(seed: int, given: Sequence[str], log: Path, calibrate_on: str) -> dict[str, Any]:
    """Train with one seed and measure, as far as that is not done; all that the files of the run say."""
    command = [*given, "--seed", str(seed), "--root_log", str(log / f"seed_{seed}")]
    options = parse_options(build_parser("one seed"), command)
    folder = run_folder(options)
    last, records = folder / checkpoint.LAST, folder / "metrics.jsonl"
    # The checkpoint of an epoch is written after the epoch's record.
    if not _is_newer(last, records) or len(records.read_text().splitlines()) < options.epochs:
        name = f"seed {seed}: training; see {folder / 'log.csv'}"
        run_step(name, "main_semiAMP.py", [*command, "--resume", "auto"])
    return {"seed": seed} | measure(command, folder, f"seed {seed}: ", calibrate_on=calibrate_on)


def measure(
    command: Sequence[str], folder: Path, label: str = "", pairs: str = "all", calibrate_on: str = "train"
) -> dict[str, Any]:
    """Put the last checkpoint of a run through what is not done yet; all that the files in its folder say then.

    Args:
        command: the run's options.
        label: begins the lines that say what is done.
        pairs: of policies, for --set_ablation.
        calibrate_on: where the thresholds of early exit are from.
    """
    last = folder / checkpoint.LAST
    resume = ["--resume", str(last)]
    ablation = [*command, "--evaluate", *resume, "--set_ablation", pairs]
    for name, made, script, arguments in (
        ("what the policies are worth", ABLATION, "main.py", ablation),
        ("policies against the truth", REPORT, "ops/toy/policies.py", [*resume, "--json", str(folder / REPORT)]),
        (
            "early exit",
            PICTURE,
            "test_early_exit_uni_adafocus.py",
            [*command, *resume, "--calibrate_on", calibrate_on],
        ),
    ):
        if not _is_newer(folder / made, last):
            run_step(label + name, script, arguments)
    with np.load(folder / EXIT_LOGITS) as arrays:
        logits, labels = arrays["val_logits"], arrays["val_labels"]
    evaluated = slice(None) if calibrate_on == "train" else halves(len(labels))[1]
    fixed, expected = (
        [main_metric(logits[rows, number], labels[rows], "accuracy") for number in range(logits.shape[1])]
        for rows in (slice(None), evaluated)
    )
    costs = json.loads(result_file(folder, CRITERIA[0], "json").read_text())["exit_gflops"]
    return {
        "ablation": _rows(folder / ABLATION),
        "policies": json.loads((folder / REPORT).read_text()),
        "early_exit": {
            criterion: [_with_expected(row, expected) for row in _rows(result_file(folder, criterion, "csv"))]
            for criterion in CRITERIA
        },
        # Where all videos leave at the same exit: of all videos, and of those that early exit was evaluated on.
        "fixed_exits": [{"gflops": cost, "metric": metric} for cost, metric in zip(costs, fixed, strict=True)],
        "their_exits": [{"gflops": cost, "metric": metric} for cost, metric in zip(costs, expected, strict=True)],
    }


def _with_expected(row: Mapping[str, float], fixed: Sequence[float]) -> dict[str, float]:
    """An operating point whose `random_metric`, in the file that of one draw, is what is expected of such draws."""
    return {**row, "random_metric": sum(row[f"exit_{number}"] * metric for number, metric in enumerate(fixed))}


def goals(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the method has to show, and whether it does: `name`, `value`, `wanted` and `met` of each goal.

    Accuracies are in percent. Differences between policies are paired: of the same network on the same videos.
    """
    found = over_seeds(runs)
    in_span, covered, areas = (found["policies"][name] for name in ("in_span", "covered", "patch_area"))
    exits, points = found["fixed_exits"], found["early_exit"][CRITERION]
    final, cost = exits[-1]["metric"]["mean"], exits[-1]["gflops"]["mean"]
    enough = found["their_exits"][-1]["metric"]["mean"] - 0.5
    # The smallest random patches that are not smaller than the learned ones.
    fair = min(
        (name for name in covered if name.startswith("random")),
        key=lambda name: (areas[name]["mean"] < areas["learned"]["mean"] - 1e-6, areas[name]["mean"]),
    )
    shares = [100 * row["gflops"]["mean"] / cost for row in points if row["metric"]["mean"] >= enough]
    rows = [
        _goal("final accuracy", final, 90),
        _goal("final accuracy above that after the glance, points", final - exits[0]["metric"]["mean"], 10),
        _policies_goal(runs, "random patches", ("random", "learned")),
        _policies_goal(runs, "centre patches", ("center", "learned")),
        _policies_goal(runs, "uniform frames", ("learned", "uniform")),
        _goal("focus frames in the true span, times chance", _ratio(in_span, "learned", "random"), 2),
        _goal(f"badge inside the patch, times that of patches at {fair}", _ratio(covered, "learned", fair), 1.5),
    ]
    share = min(shares, default=100.0)
    return [
        *rows,
        {"name": "GFLOPs at which early exit is within 0.5 points of the final accuracy, percent of all",
         "value": share, "wanted": "at most 60", "met": share <= 60},
        _random_exits_goal(runs),
    ]  # fmt: skip


def _goal(name: str, value: float, low: float) -> dict[str, Any]:
    return {"name": name, "value": value, "wanted": f"at least {low}", "met": value >= low}


def _policies_goal(runs: Sequence[Mapping[str, Any]], name: str, other: tuple[str, str]) -> dict[str, Any]:
    """Accuracy with the learned policies above that with others, by more than 5 points and than chance explains."""
    differences = []
    for run in runs:
        metric = {(row["patch_policy"], row["frame_policy"]): row["metric"] for row in run["ablation"]}
        differences.append(metric["learned", "learned"] - metric[other])
    value, error = mean(differences), _standard_error(differences)
    wanted = f"at least 5, and more than 2 standard errors ({error:.2f})"
    return {"name": f"above {name}, points", "value": value, "wanted": wanted, "met": value >= 5 and value > 2 * error}


def _random_exits_goal(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracy with early exit above that of as many random exits, on average over the runs, where it is least."""
    above = np.array([[row["metric"] - row["random_metric"] for row in run["early_exit"][CRITERION]] for run in runs])
    worst = int(above.mean(0).argmin())
    p, error = runs[0]["early_exit"][CRITERION][worst]["p"], _standard_error(above[:, worst])
    goal = _goal("early exit above as many random exits at its worst point, points", float(above[:, worst].mean()), 0)
    return goal | {"wanted": f"{goal['wanted']} (worst: p = {p:.0f}, standard error {error:.2f})"}


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; of a single value, unknown."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.inf


def _ratio(values: Mapping[str, Mapping[str, float]], one: str, other: str) -> float:
    return values[one]["mean"] / max(values[other]["mean"], 1e-9)


def run_step(name: str, script: str, arguments: Sequence[str]) -> None:
    """Say what is done, run a script of the repository, and say how long it took. Raises UserError, with its last line,
    where it fails."""
    print(name, flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, ROOT / script, *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"{name}: {lines[-1]}")
    print(f"{name.partition(';')[0]}: {time.monotonic() - began:.0f} s", flush=True)


def _is_newer(made: Path, source: Path) -> bool:
    return made.is_file() and source.is_file() and made.stat().st_mtime >= source.stat().st_mtime


def _rows(path: Path) -> list[dict[str, Any]]:
    """A CSV file's rows; what does not name a policy is a number."""
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {name: text if name.endswith("_policy") else float(text) for name, text in row.items()}
            for row in csv.DictReader(file)
        ]


def over_seeds(runs: Sequence[Any]) -> Any:
    """What several runs say, all of one structure, as one: a number becomes {"mean", "std"} (sample standard deviation,
    None of a single run); text stays."""
    first = runs[0]
    if isinstance(first, Mapping):
        return {name: over_seeds([run[name] for run in runs]) for name in first}
    if isinstance(first, list):
        return [over_seeds(each) for each in zip(*runs, strict=True)]
    if isinstance(first, str):
        return first
    return {"mean": mean(runs), "std": stdev(runs) if len(runs) > 1 else None}


def markdown(results: Mapping[str, Any], preset: Preset) -> str:
    """The page; `results` as in the file of figures."""
    settings, found, seeds = results["settings"], results["over_seeds"], len(results["seeds"])
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    command = "python results/toy.py" + ("" if preset.sizes == DEMO.sizes else f" --sizes {preset.sizes}")
    data = ", ".join(f"{name} {value}" for name, value in settings["data"].items())
    options = "".join(f" --{name} {value}" for name, value in settings["options"].items())
    ablation = {(row["patch_policy"], row["frame_policy"]): row for row in found["ablation"]}
    gflops = ablation["learned", "learned"]["gflops"]["mean"]
    policies, fixed = found["policies"], found["their_exits"]
    points = [point for point in found["early_exit"][CRITERION] if point["p"]["mean"] in SHOWN_POINTS]
    exits = [(f"p = {point['p']['mean']:.0f}", point) for point in points]
    exits = [("after the glance", fixed[0]), *exits, ("never", fixed[-1])]

    goals = (
        [goal["name"], f"{goal['value']:.2f}", goal["wanted"], "yes" if goal["met"] else "**no**"]
        for goal in results["goals"]
    )

    def by_policies(head: str) -> str:
        return _table(
            ["patches", *(f"{frames} frames" for frames in FRAME_POLICIES)],
            ([patches, *(ablation[patches, frames][head] for frames in FRAME_POLICIES)] for patches in PATCH_POLICIES),
        )

    parts = (
        f"# Results on the toy dataset{_at_sizes(preset)}",
        f"Made by `{command}`: {spread}, in percent, of the last checkpoint on the validation split.\n"
        f"Options: `--dataset toy{options}`; videos: {data or 'as `make demo` has them'}. The backbones start from\n"
        "`python -m ops.toy.pretrain`, for every seed the same weights: stills with the same classes stand in for\n"
        "ImageNet. The glance network has not learned to tell rings from checks, and is not trained any more: at a\n"
        "glance, only half of the classes can be told.",
        "## What was to be shown",
        _table(["", "found", "wanted", "met"], goals),
        *([preset.remark] if preset.remark else []),
        f"## Top-1 accuracy, each at {gflops:.3f} GFLOPs per video",
        by_policies("metric"),
        f"## Top-1 accuracy of the focus steps alone, each at {gflops:.3f} GFLOPs per video",
        by_policies("local_metric"),
        "## Do the policies find what decides?",
        _table(["focus frames", "in the time span of the badge"], policies["in_span"].items()),
        _table(
            ["patches", "of the badge inside the patch", "the patch, of the frame"],
            ([name, value, policies["patch_area"][name]] for name, value in policies["covered"].items()),
        ),
        f"## Early exit by {CRITERION}",
        CALIBRATED[settings["calibrate_on"]],
        _table(
            ["exit", "GFLOPs", "top-1 accuracy", "of as many random exits"],
            (
                [name, f"{row['gflops']['mean']:.3f}", row["metric"], row.get("random_metric", row["metric"])]
                for name, row in exits
            ),
        ),
        f"![accuracy over GFLOPs]({_picture(preset)})",
    )
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | Mapping[str, float | None]]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | Mapping[str, float | None]) -> str:
    """Text as it is, and a number as `over_seeds` has it."""
    if isinstance(value, str):
        return value
    return f"{value['mean']:.1f}" + ("" if value["std"] is None else f" ± {value['std']:.1f}")


def draw_curves(path: Path, results: Mapping[str, Any], preset: Preset) -> None:
    """The early-exit curve, averaged over the seeds point by point, as PNG. Raises UserError where that fails."""
    found, seeds = results["over_seeds"], len(results["seeds"])
    bands = (
        {}
        if seeds == 1
        else {criterion: [row["metric"]["std"] for row in rows] for criterion, rows in found["early_exit"].items()}
    )
    shown, hidden = ("p", "gflops", "metric", "random_metric"), [np.array([])] * 2  # the exits' shares and thresholds
    points = {
        criterion: [ExitPoint(*(row[name]["mean"] for name in shown), *hidden) for row in rows]
        for criterion, rows in found["early_exit"].items()
    }
    gflops, fixed = ([row[name]["mean"] for row in found["their_exits"]] for name in ("gflops", "metric"))
    curves = ExitCurves("accuracy", gflops, points, fixed)
    what = f"toy{_at_sizes(preset)}"
    title = f"{what}, one seed" if seeds == 1 else f"{what}, mean ± standard deviation of {seeds} seeds"
    save_png(path, early_exit_figure(curves, title, bands=bands))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the results as the command line says; returns the exit code."""
    parser = OneLineParser(description="Train and measure on toy videos, over several seeds.")
    sizes = "of videos and network: small ones, or the published ones for a GPU (default: demo)"
    parser.add_argument("--sizes", choices=tuple(PRESETS), default=DEMO.sizes, help=sizes)
    parser.add_argument("--seeds", type=whole(1), default=5, help="how many runs (default: 5)")
    parser.add_argument("--parallel", type=whole(1), default=1, help="of them at a time (default: 1)")
    folders = "toy_results, or for --sizes published toy_published_sizes"
    parser.add_argument("--data_dir", type=Path, help=f"default: in data/, {folders}")
    parser.add_argument("--root_log", type=Path, help=f"default: in log/, {folders}")
    parser.add_argument("--out", type=Path, default=Path("results"), help="default: results")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // given.parallel)))  # of each run
    preset = PRESETS[given.sizes]
    data_dir, log = given.data_dir or Path("data") / preset.folder, given.root_log or Path("log") / preset.folder
    found = make_results(preset, given.seeds, given.parallel, data_dir, log, given.out)
    met = f"{sum(goal['met'] for goal in found)} of {len(found)} goals met"
    page = given.out / f"{preset.files}.md"
    print(f"done: {given.seeds} seeds, {met}; {page}, {preset.files}.json and {_picture(preset)}")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
