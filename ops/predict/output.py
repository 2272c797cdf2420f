"""Predictions for people, as a table, and for programs, as JSON and CSV."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ops.predict.predictor import Failure, Outcome, Prediction
from ops.report.files import no_formula
from ops.utils import files
from ops.utils.errors import UserError
from ops.utils.failure_list import printable
from ops.utils.files import whole_file

STDOUT = "-"
_WIDEST_NAME = 60  # characters of a column; longer names push the rest of their line to the right
CSV_COLUMNS = ("video", "rank", "class", "label", "probability", "patches", "gflops", "seconds", "error")
CSV_DIGITS = {"probability": 6, "gflops": 4, "seconds": 4}


class Table:
    """Lines for the terminal: a row per video, and one for each further class."""

    def __init__(self, videos: Sequence[Path], class_names: Sequence[str], max_patches: int) -> None:
        self.class_names, self.max_patches = class_names, max_patches
        self.width = min(max((len(printable(str(path))) for path in videos), default=0), _WIDEST_NAME)

    def head(self) -> str:
        """The names of the columns."""
        return self._line("video", "patches", "GFLOPs", "seconds", "probability", "class")

    def rows(self, prediction: Prediction) -> str:
        """The lines of one video."""
        cells = [printable(str(prediction.path)), f"{prediction.patches} of {self.max_patches}"]
        cells += [f"{prediction.gflops:.2f}", f"{prediction.seconds:.2f}"]
        lines = []
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            lines.append(self._line(*cells, f"{100 * probability:.1f} %", printable(self.class_names[label])))
            cells = ["", "", "", ""]
        return "\n".join(lines)

    def foot(self, outcomes: Sequence[Outcome]) -> str:
        """What all of them took."""
        costs = [(each.patches, each.gflops, each.seconds) for each in outcomes if isinstance(each, Prediction)]
        line = f"{len(costs)} videos, {len(outcomes) - len(costs)} failed"
        if costs:
            patches, gflops, seconds = map(fmean, zip(*costs, strict=True))
            line += f"; on average {patches:.1f} patches, {gflops:.2f} GFLOPs, {seconds:.2f} s"
        return line

    def _line(self, video: str, patches: str, gflops: str, seconds: str, probability: str, name: str) -> str:
        return f"{video:<{self.width}}  {patches:>8}  {gflops:>7}  {seconds:>7}  {probability:>11}  {name}"


def as_objects(outcomes: Sequence[Outcome], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A plain object for each outcome; in names, bytes that are not UTF-8 are lone surrogates (os.fsencode)."""
    objects = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            objects.append({"video": str(outcome.path), "error": outcome.reason})
            continue
        classes = [
            {"class": class_names[label], "label": label, "probability": round(probability, 6)}
            for label, probability in zip(outcome.labels, outcome.probabilities, strict=True)
        ]
        costs = {"patches": outcome.patches, "gflops": round(outcome.gflops, 4), "seconds": round(outcome.seconds, 4)}
        files = {kind: str(path) for kind, path in outcome.files.items()}
        objects.append({"video": str(outcome.path), "predictions": classes, **costs, **files})
    return objects


def as_json(outcomes: Sequence[Outcome], class_names: Sequence[str]) -> bytes:
    """The list of `as_objects`."""
    return (json.dumps(as_objects(outcomes, class_names), indent=1) + "\n").encode()


def as_csv(outcomes: Sequence[Outcome], class_names: Sequence[str]) -> bytes:
    """`CSV_COLUMNS`; a row for each class of a video's prediction, rank 1 the likeliest, and one for each failure. No
    cell is a formula to a spreadsheet."""
    text = io.StringIO()
    rows = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    for item in as_objects(outcomes, class_names):
        if "error" in item:
            rows.writerow({name: no_formula(cell) for name, cell in item.items()})
        for rank, likely in enumerate(item.get("predictions", ()), start=1):
            row = item | likely | {"rank": rank}
            row |= {name: f"{row[name]:.{digits}f}" for name, digits in CSV_DIGITS.items()}
            rows.writerow({name: no_formula(cell) for name, cell in row.items()})
    return text.getvalue().encode(errors="surrogateescape")


def check_writable(target: str) -> None:
    """Find out before the work whether `deliver` will be able to write. Raises UserError."""
    path = Path(target)
    if target == STDOUT:
        return
    if not target:
        raise UserError("--json and --csv need the name of a file, or -: an empty one was given")
    if path.is_dir():
        raise UserError(f"{printable(target)} is a folder: give the name of a file")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {printable(target)}: there is no folder {printable(str(path.parent))}")
    files.check_writable(path)


def deliver(content: bytes, target: str) -> None:
    """Write to a file, whole or not at all, or to standard output. Raises UserError."""
    if target == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with whole_file(Path(target)) as file:
        file.write(content)
