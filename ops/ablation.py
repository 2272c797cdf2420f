"""What the policies are worth: an evaluation with other policies (`--patch_policy`, `--frame_policy`), and all of them
side by side (`--set_ablation`).

`compare_policies` decodes every video once and glances at it once. ablation.csv then has a row for each pair of a patch
and a frame policy: patch_policy, frame_policy, draws; metric and local_metric, the main metric in percent of the last
step and of the focus steps alone, each with its standard deviation over the draws (`_std`, 0 where nothing is drawn);
and gflops per video, the whole network's.
"""

import argparse
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.ablation import FRAME_POLICIES, PATCH_POLICIES, Policies, outputs_of_policies
from models.uni_adafocus import Output, UniAdaFocus
from ops import engine
from ops.data.check import report_replaced
from ops.data.dataset import VideoDataset
from ops.flops import exit_gflops
from ops.metrics import METRIC_NAMES, main_metric, step_mean
from ops.report.files import write_csv
from ops.report.outputs import of_checkpoint, report_left_out_classes
from ops.utils import distributed
from ops.utils.session import Run

FILE_NAME = "ablation.csv"
DRAWS = 3  # of policies that choose at random


def forward_of_policies(options: argparse.Namespace) -> engine.Forward | None:
    """What `engine.evaluate` takes where the options ask for other policies than the network's own, else None."""
    policies = Policies(options.patch_policy, options.frame_policy, options.seed)
    if policies == Policies(seed=options.seed):
        return None
    return lambda model, frames, videos: outputs_of_policies(model, frames, videos, [policies])[0]


@torch.no_grad()
def compare_policies(
    run: Run, model: UniAdaFocus, dataset: VideoDataset, batches: Iterable[engine.Batch], checkpoint: Path
) -> None:
    """Evaluate the pairs of policies of `--set_ablation` on the split, print a table and write it to the log folder.

    batches: this process's share of the split. checkpoint: what the weights are from. Every process calls this.
    Raises UserError on all of them where an output is not finite or the file cannot be written.
    """
    model.eval()
    pairs = [Policies(patches, frames, run.options.seed) for patches, frames in product(PATCH_POLICIES, FRAME_POLICIES)]
    if run.options.set_ablation == "single":
        pairs = [policies for policies in pairs if "learned" in (policies.patches, policies.frames)]
    choices = [choice for policies in pairs for choice in draws_of(policies)]

    def heads(outputs: Sequence[Output]) -> dict[tuple[Policies, str], Tensor]:
        found = dict(zip(choices, outputs, strict=True))
        pred = {(choice, "pred"): output.logits for choice, output in found.items()}
        return pred | {(choice, "local"): step_mean(output.focus_logits) for choice, output in found.items()}

    collected, indices = engine.collect(model, batches, heads, lambda *batch: outputs_of_policies(*batch, choices))
    logits = {key: distributed.gather_rows(rows, indices, len(dataset)) for key, rows in collected.items()}
    report_replaced(dataset, run.log.line, "evaluation")
    with distributed.fail_together():
        if distributed.is_main_process():
            engine.check_finite(logits, dataset.video_name)
            gflops = exit_gflops(model)[-1]
            rows = [_row(policies, logits, dataset) | {"gflops": gflops} for policies in pairs]
            for line in ablation_table(rows, dataset.config.metric):
                run.log.line(line)
            report_left_out_classes(run.log, dataset.config, dataset.labels)
            cells = ([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows)
            name = of_checkpoint(FILE_NAME, run.log.folder, checkpoint)
            write_csv(run.log.folder / name, [rows[0], *cells])
            run.log.line(f"{name} is in {run.log.folder}")


def draws_of(policies: Policies) -> list[Policies]:
    """The policies once for each draw that is averaged over: several where they choose at random."""
    return [replace(policies, draw=draw) for draw in range(DRAWS if policies.are_random else 1)]


def _row(policies: Policies, logits: Mapping[tuple[Policies, str], Tensor], dataset: VideoDataset) -> dict[str, Any]:
    draws = draws_of(policies)
    row = {"patch_policy": policies.patches, "frame_policy": policies.frames, "draws": len(draws)}
    for name, head in (("metric", "pred"), ("local_metric", "local")):
        found = [main_metric(logits[draw, head], dataset.labels, dataset.config.metric) for draw in draws]
        row |= {name: statistics.mean(found), f"{name}_std": statistics.stdev(found) if len(found) > 1 else 0.0}
    return row


def ablation_table(rows: Sequence[dict[str, Any]], metric: str) -> Iterator[str]:
    """Lines for people. rows: by the columns of ablation.csv; metric: "map" or "accuracy"."""
    yield f"Ablation of the policies, {METRIC_NAMES[metric]} in percent ({DRAWS} draws of random choices, ± deviation):"
    yield "  patches  frames    last step     focus steps alone  GFLOPs"
    for row in rows:
        last, local = (
            f"{row[name]:6.2f}" + (f" ± {row[f'{name}_std']:.2f}" if row["draws"] > 1 else "")
            for name in ("metric", "local_metric")
        )
        yield f"  {row['patch_policy']:8s} {row['frame_policy']:8s} {last:14s} {local:18s} {row['gflops']:7.3f}"
