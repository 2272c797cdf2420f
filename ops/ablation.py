"""What the policies are worth: an evaluation with other policies (`--patch_policy`, `--frame_policy`), and all of them
side by side (`--set_ablation`).

`compare_policies` decodes every video once and glances at it once. ablation.csv then has a row for each pair of a patch
and a frame policy: patch_policy, frame_policy, draws; metric and local_metric, the main metric in percent of the last
step and of the focus steps alone, each with its standard deviation over the draws (`_std`, 0 where nothing is drawn);
and gflops per video, the whole network's.
"""

import argparse
import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from models.ablation import FRAME_POLICIES, PATCH_POLICIES, Policies, outputs_of_policies
from models.uni_adafocus import Output, UniAdaFocus
from ops import engine
from ops.data.check import report_replaced
from ops.data.dataset import VideoDataset
from ops.flops import exit_gflops
from ops.metrics import METRIC_NAMES, main_metric, step_mean
from ops.utils import distributed
from ops.utils.files import whole_file
from ops.utils.session import Run

FILE_NAME = "ablation.csv"
DRAWS = 3  # of policies that choose at random


@dataclass(frozen=True)
class AblationRow:
    """What a pair of policies achieves; metrics in percent, averaged over the draws."""

    patch_policy: str
    frame_policy: str
    draws: int
    metric: float  # of the last step
    metric_std: float
    local_metric: float  # of the focus steps' own predictions
    local_metric_std: float
    gflops: float  # per video


def forward_of_policies(options: argparse.Namespace) -> engine.Forward | None:
    """What `engine.evaluate` takes where the options ask for other policies than the network's own, else None."""
    policies = Policies(options.patch_policy, options.frame_policy, options.seed)
    if policies == Policies(seed=options.seed):
        return None
    return lambda model, frames, videos: outputs_of_policies(model, frames, videos, [policies])[0]


@torch.no_grad()
def compare_policies(
    run: Run, model: UniAdaFocus, dataset: VideoDataset, batches: Iterable[engine.Batch]
) -> list[AblationRow]:
    """Evaluate all pairs of policies on the split, print them as a table and write it to the log folder.

    batches: this process's share of the split. Every process calls this; the rows are the main one's, others get none.
    Raises UserError on all of them where an output is not finite or the file cannot be written.
    """
    model.eval()
    pairs = [Policies(patches, frames, run.options.seed) for patches, frames in product(PATCH_POLICIES, FRAME_POLICIES)]
    choices = [choice for policies in pairs for choice in draws_of(policies)]

    def heads(outputs: Sequence[Output]) -> dict[tuple[Policies, str], Tensor]:
        found = dict(zip(choices, outputs, strict=True))
        pred = {(choice, "pred"): output.logits for choice, output in found.items()}
        return pred | {(choice, "local"): step_mean(output.focus_logits) for choice, output in found.items()}

    collected, indices = engine.collect(model, batches, heads, lambda *batch: outputs_of_policies(*batch, choices))
    logits = {key: distributed.gather_rows(rows, indices, len(dataset)) for key, rows in collected.items()}
    report_replaced(dataset, run.log.line, "evaluation")
    rows: list[AblationRow] = []
    with distributed.fail_together():
        if distributed.is_main_process():
            engine.check_finite(logits, dataset.video_name)
            gflops = exit_gflops(model)[-1]
            rows = [_row(policies, logits, dataset, gflops) for policies in pairs]
            for line in ablation_table(rows, dataset.config.metric):
                run.log.line(line)
            write_ablation(run.log.folder / FILE_NAME, rows)
            run.log.line(f"{FILE_NAME} is in {run.log.folder}")
    return rows


def draws_of(policies: Policies) -> list[Policies]:
    """The policies once for each draw that is averaged over: several where they choose at random."""
    return [replace(policies, draw=draw) for draw in range(DRAWS if policies.are_random else 1)]


def ablation_table(rows: Sequence[AblationRow], metric: str) -> Iterator[str]:
    """Lines for people; metric: "map" or "accuracy"."""
    yield f"Ablation of the policies, {METRIC_NAMES[metric]} in percent ({DRAWS} draws of random choices, ± deviation):"
    yield "  patches  frames    last step     focus steps alone  GFLOPs"
    for row in rows:
        figures = [
            f"{mean:6.2f}" + (f" ± {spread:.2f}" if row.draws > 1 else "")
            for mean, spread in ((row.metric, row.metric_std), (row.local_metric, row.local_metric_std))
        ]
        yield f"  {row.patch_policy:8s} {row.frame_policy:8s} {figures[0]:14s} {figures[1]:18s} {row.gflops:7.3f}"


def write_ablation(path: Path, rows: Sequence[AblationRow]) -> None:
    """One row per pair of policies, under the names of `AblationRow`. Raises UserError where it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(AblationRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(row).items()}
        )
    with whole_file(path) as file:
        file.write(text.getvalue().encode())


def _row(
    policies: Policies, logits: Mapping[tuple[Policies, str], Tensor], dataset: VideoDataset, gflops: float
) -> AblationRow:
    draws, figures = draws_of(policies), []
    for head in ("pred", "local"):
        found = [main_metric(logits[choice, head], dataset.labels, dataset.config.metric) for choice in draws]
        figures += [statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0]
    return AblationRow(policies.patches, policies.frames, len(draws), *figures, gflops)
