"""What the early-exit evaluation leaves for other programs: the curve as CSV, the thresholds as JSON."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.uni_adafocus import UniAdaFocus
from ops.early_exit.curve import CRITERIA, ExitCurves, ExitPoint
from ops.report.files import write_csv, write_json
from ops.utils.errors import UserError, first_line

# What logits and thresholds depend on besides the weights, by the names of the options.
MODEL_SIZES = (
    "glance_arch", "num_classes", "num_segments", "num_glance_segments", "num_focus_segments", "input_size",
    "patch_size", "temperature",
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Where a network's weights are from."""

    path: Path
    sha256: str  # of the file, in hexadecimal; empty on all processes but the main one


def model_sizes(model: UniAdaFocus) -> dict[str, Any]:
    """The model's `MODEL_SIZES` by name."""
    return {name: getattr(model, name) for name in MODEL_SIZES}


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal. Raises UserError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def result_file(folder: Path, criterion: str, ending: str) -> Path:
    """Where the curve ("csv") or the thresholds ("json") of a criterion are kept, of the run in that folder."""
    return folder / f"early_exit_{criterion}.{ending}"


def write_curve(path: Path, points: Sequence[ExitPoint]) -> None:
    """One row per operating point: p, gflops, metric and random_metric in percent, the share of videos of each exit."""
    exits = range(len(points[0].exit_ratio))
    rows = [["p", "gflops", "metric", "random_metric", *(f"exit_{number}" for number in exits)]]
    for point in points:
        figures = [point.gflops, point.metric, point.random_metric, *point.exit_ratio.tolist()]
        rows.append([point.p, *(f"{figure:.6g}" for figure in figures)])
    write_csv(path, rows)


def write_thresholds(
    path: Path, curves: ExitCurves, criterion: str, calibrated_on: str, model: UniAdaFocus, weights: Weights
) -> None:
    """All operating points of a criterion with their thresholds, and the model that these belong to.

    Args:
        path: of the file, see `result_file`.
        curves: of all criteria.
        criterion: "confidence" or "entropy".
        calibrated_on: the videos that the thresholds were found on, as `--calibrate_on` says it.
        model, weights: what the thresholds belong to.

    A threshold is a number or null: no video may leave there, except at the last exit, which takes all.
    """
    content = {
        "criterion": criterion,
        "metric": curves.metric,
        "calibrated_on": calibrated_on,
        "checkpoint": {"path": str(weights.path), "sha256": weights.sha256},
        "model": model_sizes(model),
        "exit_gflops": curves.gflops,
        "points": [
            {
                "p": point.p,
                "gflops": point.gflops,
                "metric": point.metric,
                "thresholds": [t if math.isfinite(t) else None for t in point.thresholds.tolist()],
            }
            for point in curves.points[criterion]
        ],
    }
    write_json(path, content)


def read_thresholds(path: Path, p: int, model: UniAdaFocus, checkpoint_hash: str) -> tuple[np.ndarray, str]:
    """The thresholds of operating point p (1..19), float32 [K] with +inf and at the end -inf, and their criterion.

    Raises UserError where the file is absent or not one of these, has no such point, or belongs to another model:
    one of other sizes, or of a checkpoint file with another SHA-256.
    """
    try:
        content = json.loads(path.read_bytes())
        criterion, sizes, kept_hash = content["criterion"], dict(content["model"]), str(content["checkpoint"]["sha256"])
        rows = {int(point["p"]): point["thresholds"] for point in content["points"]}
        checkpoint = content["checkpoint"]["path"]
    except FileNotFoundError:
        raise UserError(f"thresholds {path} do not exist: make them with test_early_exit_uni_adafocus.py") from None
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} holds no thresholds of early exit ({first_line(error)})") from error
    here = model_sizes(model)
    other = [f"{name} {sizes.get(name)}, here {size}" for name, size in here.items() if sizes.get(name) != size]
    if other:
        raise UserError(f"thresholds {path} belong to another model: {'; '.join(other)}")
    if kept_hash != checkpoint_hash:
        raise UserError(
            f"thresholds {path} were found with another checkpoint ({checkpoint}, SHA-256 {kept_hash[:12]}) than this "
            f"one ({checkpoint_hash[:12]}): make new ones with test_early_exit_uni_adafocus.py"
        )
    if p not in rows:
        raise UserError(f"thresholds {path} have no operating point {p}: choose one of {', '.join(map(str, rows))}")
    try:
        thresholds = np.array([np.inf if value is None else float(value) for value in rows[p]], dtype=np.float32)
        right = criterion in CRITERIA and len(thresholds) == model.num_focus_segments + 1 and thresholds.min() > -np.inf
    except (ValueError, TypeError, OverflowError):  # NaN is above nothing either
        right = False
    if not right:
        raise UserError(f"{path} is damaged: operating point {p} by {criterion!r:.20} has no threshold for each exit")
    thresholds[-1] = -np.inf
    return thresholds, criterion
