"""The results of `ops.toy_results` for people: a page of tables and a picture of the early-exit curve."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from models.ablation import FRAME_POLICIES, PATCH_POLICIES
from ops.exit_curve import ExitCurves, ExitPoint
from ops.visualize import draw_early_exit

SHOWN_POINTS = (1, 5, 10, 15, 19)  # of the early-exit curve


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


def markdown(results: Mapping[str, Any]) -> str:
    """The page; `results` as in toy.json."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Mapping[str, Any]) -> Iterator[str]:
    settings, found, seeds = results["settings"], results["over_seeds"], len(results["seeds"])
    by_policies = {(row["patch_policy"], row["frame_policy"]): row for row in found["ablation"]}
    policies = found["policies"]
    yield from ("# Results on the toy dataset", "")
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    yield f"Made by `python -m ops.toy_results`: {spread}, in percent, of the last checkpoint on the validation videos."
    yield f"Videos: {_listed(settings['data'])}. Options: `--dataset toy {_listed(settings['options'], '--', ' ')}`."
    for head, what in (("metric", "Top-1 accuracy"), ("local_metric", "Top-1 accuracy of the focus steps alone")):
        yield from (
            "",
            f"## {what}, each at {by_policies['learned', 'learned']['gflops']['mean']:.3f} GFLOPs per video",
            "",
        )
        yield from _table(
            ["patches", *(f"{frames} frames" for frames in FRAME_POLICIES)],
            (
                [patches, *(_figure(by_policies[patches, frames][head]) for frames in FRAME_POLICIES)]
                for patches in PATCH_POLICIES
            ),
        )
    yield from ("", "## Do the policies find what decides?", "")
    yield from _table(
        ["focus frames", "in the time span of the badge"],
        ([name, _figure(value)] for name, value in policies["in_span"].items()),
    )
    yield ""
    yield from _table(
        ["patches", "of the badge inside the patch", "the patch, of the frame"],
        ([name, _figure(value), _figure(policies["patch_area"][name])] for name, value in policies["covered"].items()),
    )
    yield from ("", "## Early exit by confidence", "")
    points = [point for point in found["early_exit"]["confidence"] if point["p"]["mean"] in SHOWN_POINTS]
    rows = [("after the glance", found["fixed_exits"][0])]
    rows += [(f"p = {point['p']['mean']:.0f}", point) for point in points]
    rows += [("never", found["fixed_exits"][-1])]
    yield from _table(
        ["exit", "GFLOPs", "top-1 accuracy", "of random exits"],
        (
            [
                name,
                f"{row['gflops']['mean']:.3f}",
                _figure(row["metric"]),
                _figure(row.get("random_metric", row["metric"])),
            ]
            for name, row in rows
        ),
    )
    yield from ("", "![accuracy over GFLOPs](toy_early_exit.png)")


def draw_curves(path: Path, results: Mapping[str, Any]) -> None:
    """The early-exit curve, averaged over the seeds point by point, as PNG. Raises UserError where that fails."""
    found, seeds = results["over_seeds"], len(results["seeds"])

    def exit_point(point: Mapping[str, Mapping[str, float]]) -> ExitPoint:
        ratio = [value["mean"] for name, value in point.items() if name.startswith("exit_")]
        figures = (point[name]["mean"] for name in ("gflops", "metric", "random_metric"))
        return ExitPoint(int(point["p"]["mean"]), *figures, np.array(ratio), np.array([]))

    fixed = found["fixed_exits"]
    curves = ExitCurves(
        metric="accuracy",
        gflops=[row["gflops"]["mean"] for row in fixed],
        points={name: [exit_point(point) for point in points] for name, points in found["early_exit"].items()},
        fixed=[row["metric"]["mean"] for row in fixed],
    )
    draw_early_exit(path, curves, "toy, one seed" if seeds == 1 else f"toy, mean of {seeds} seeds")


def _figure(value: Mapping[str, float | None]) -> str:
    return f"{value['mean']:.1f}" + ("" if value["std"] is None else f" ± {value['std']:.1f}")


def _listed(values: Mapping[str, Any], prefix: str = "", separator: str = ", ") -> str:
    return separator.join(f"{prefix}{name} {value}" for name, value in values.items())


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
