"""Curves of a run, or of several for comparison, from the metrics.jsonl that training writes.

    python -m ops.report.curves log/UniAdaFocus_actnet_mbv2_segment48_e50
    python -m ops.report.curves log/one_run log/another --output comparison.png

The last line then reads

    done: comparison.png

For one folder the picture is its curves.png, unless --output says otherwise; training and `--evaluate` write it too.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ops.losses import LOSS_NAMES
from ops.metrics import MAIN_METRIC
from ops.report.style import FONT, fitted, new_figure, plain_axes, save_png
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from ops.utils.logger import METRICS_FILE, Records, read_records
from opts import OneLineParser

CURVES_FILE = "curves.png"
# Told apart by colour-blind readers too (Okabe and Ito); with more lines they come again, dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (4, 2)), (0, (1, 1)))
FEW_CLASSES = 6  # of which the first five say next to nothing
MANY_EPOCHS = 30  # above, lines without a mark for each


def draw_run(folder: Path) -> Path | None:
    """Write the curves of a run's folder there; returns the file, or None where no epoch is recorded yet.

    Raises UserError where metrics.jsonl is damaged or the picture cannot be written.
    """
    records = read_records(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    if not records:
        return None
    save_png(folder / CURVES_FILE, curves_figure({folder.name: records}))
    return folder / CURVES_FILE


def curves_figure(runs: Mapping[str, Records]) -> Figure:
    """Losses and metrics over the epochs. One run in full; several by their losses and main metric only."""
    if len(runs) > 1:
        return _several(runs)
    [(name, records)] = runs.items()
    figure = new_figure(7.2, 6.2, dpi=200, layout="constrained")
    figure.suptitle(fitted(name, figure, 6.8, FONT + 1), fontsize=FONT + 1)
    (losses, metrics), (terms, rate) = figure.subplots(2, 2)
    # The training loss adds up other terms; what is like the validation loss is half of the term of both branches.
    steps = [(epoch, value / 2) for epoch, value in _series(records, "train", "cat")]
    shown = {"training": steps, "validation": _series(records, "val", "loss")}
    _draw(losses, "cross-entropy, mean of all steps", shown)
    _draw(terms, "training loss and its terms", {name: _series(records, "train", name) for name in LOSS_NAMES})
    names = metric_names(records)
    _draw(metrics, "validation (%)", {name: _series(records, "val", name) for name in names})
    for line in (*metrics.lines[:1], *terms.lines[:1]):  # the main metric and the loss itself stand out
        line.set(linewidth=2.2, zorder=3)
    rates = [(record["epoch"], record["lr"]) for record in records if "lr" in record]
    _draw(rate, "learning rate", {"learning rate": rates})
    return figure


def _several(runs: Mapping[str, Records]) -> Figure:
    figure = new_figure(7.2, 2.9 + 0.18 * len(runs), dpi=200, layout="constrained")
    losses, metrics = figure.subplots(1, 2)
    series = {name: _series(records, "train", "loss") for name, records in runs.items()}
    _draw(losses, "training loss", series, legend=False)
    mains = {name: metric_names(records)[:1] for name, records in runs.items()}
    shown = sorted({names[0] for names in mains.values() if names})
    series = {name: _series(runs[name], "val", names[0]) if names else [] for name, names in mains.items()}
    _draw(metrics, f"{' or '.join(shown) or 'no metric'} (%), validation", series, legend=False)
    names = [" " + fitted(name, figure, 6.0, FONT - 1) for name in runs]  # a legend leaves "_..." out
    figure.legend(losses.lines, names, loc="outside lower center", fontsize=FONT - 1, frameon=False)
    return figure


def metric_names(records: Records) -> list[str]:
    """The validation metrics to draw, the main one first: of accuracies the first of each head, and the main top 5
    where there are more than `FEW_CLASSES`.

    `Prec@1` is drawn beside mAP only: elsewhere it is the main metric by another name.
    """
    known = {name: None for record in records for name in record.get("val", {})}
    main = [name for name in MAIN_METRIC.values() if name in known]
    hidden = {*main, *(["Prec@1"] if "Acc_pred@1" in known else [])}
    hidden |= {"Acc_pred@5"} if any(record.get("classes", math.inf) <= FEW_CLASSES for record in records) else set()
    others = [name for name in known if name not in hidden and (name.endswith(("mAP", "@1")) or name == "Acc_pred@5")]
    return main + others


def _series(records: Records, part: str, name: str) -> list[tuple[int, float]]:
    """Epoch and value where there is one."""
    return [(record["epoch"], record[part][name]) for record in records if name in record.get(part, {})]


def _draw(axes: Axes, title: str, series: Mapping[str, Sequence[tuple[int, float]]], legend: bool = True) -> None:
    for number, (name, points) in enumerate(series.items()):
        epochs, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(
            epochs, values, color=COLOURS[number % len(COLOURS)], linewidth=1.2, markersize=3,
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)], marker="o" if len(points) <= MANY_EPOCHS else None,
            label=name,
        )  # fmt: skip
    axes.set_title(title, fontsize=FONT, loc="left")
    axes.set_xlabel("epoch", fontsize=FONT - 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    plain_axes(axes, FONT - 2)
    if legend and len(series) > 1:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}  # where no curve can be
        axes.legend(**below, fontsize=FONT - 3, frameon=False, ncols=min(len(series), 4), columnspacing=1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the runs of the command line; returns the exit code."""
    parser = OneLineParser(description="Curves of one run, or of several for comparison.", allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="LOG_FOLDER", help="folder with a metrics.jsonl")
    parser.add_argument("--output", type=Path, help=f"picture to write (default: {CURVES_FILE} in the folder)")
    options = parser.parse_args(arguments)
    if len(options.folders) > 1 and not options.output:
        raise UserError("name the picture that compares these runs with --output")
    runs = {str(folder): read_records(folder / METRICS_FILE) for folder in options.folders}
    for folder, records in runs.items():
        if not records:
            raise UserError(f"{folder}/{METRICS_FILE} has no epoch yet: nothing to draw")
    output = options.output or options.folders[0] / CURVES_FILE
    save_png(output, curves_figure(runs))
    print(f"done: {output}")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
