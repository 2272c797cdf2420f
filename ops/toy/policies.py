"""Do the policies find what decides? Measured on the toy dataset, where it is known when and where the badge is.

    python -m ops.toy.policies --resume log/UniAdaFocus_toy_mbv2_segment20_e3/ckpt.pth.tar
    python -m ops.toy.policies --resume CKPT --data_dir data/large --json report.json

The last table then reads, in percent and for the validation videos,

    of the badge inside the patch:
      learned                  61.7

and so on: the mean, over the learned focus frames that show the badge, of the share of its box inside the patch; the
same for patches at random places and in the centre, of the learned sizes and of the base size. The table before has the
share of focus frames between the badge's first and last frame: learned, evenly spread and random. Settings come from
the checkpoint.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataset_config import get_dataset
from models.ablation import FRAME_POLICIES, Policies, decide_otherwise
from models.spatial_policy import actions_to_boxes
from models.uni_adafocus import Decision, UniAdaFocus
from ops import checkpoint
from ops.checkpoint_settings import model_of_checkpoint
from ops.data.dataset import VideoDataset
from ops.data.loaders import EvaluationBatches, open_loader
from ops.report.files import write_json
from ops.toy.truth import ToyTruth
from ops.utils import distributed
from ops.utils.errors import EXIT_DONE, UserError, run_entry
from opts import OneLineParser

Report = dict[str, dict[str, float]]
DRAWS = 20  # of what is random; they cost little, since the network glances only once
PATCHES = ("learned", "random, learned size", "center, learned size", "random, base size", "center, base size")
BATCH_SIZE = 8


@torch.no_grad()
def policy_report(
    model: UniAdaFocus, dataset: VideoDataset, truth: ToyTruth, device: torch.device, workers: int = 0
) -> Report:
    """How often the model's choices on a split hit the truth, and how often other choices do, in percent.

    in_span: by frame policy, the share of focus frames between the badge's first and last frame. covered: by
    `PATCHES`, the mean share of the badge's visible box inside the patch, over the learned focus frames that show it;
    0 where none does. patch_area: by `PATCHES`, the mean share of the frame's area. counts: of videos, of their focus
    frames, and of those that show the badge. Random choices are averaged over `DRAWS` draws, always the same.
    Raises UserError for a video that cannot be read.
    """
    model.eval()
    found = {table: defaultdict(list) for table in ("in_span", "covered", "patch_area")}
    with open_loader(dataset, EvaluationBatches(len(dataset), BATCH_SIZE), workers, device) as loader:
        for frames, _, videos in loader:
            learned = model.decide(model.glance(frames.to(device)))
            in_span = torch.stack([truth.in_span(video) for video in videos.tolist()]).to(device)  # [B, T]
            boxes = torch.stack([truth.boxes(video) for video in videos.tolist()]).to(device)  # [B, T, 4]
            boxes = boxes.gather(1, learned.focus_indices.unsqueeze(-1).expand(-1, -1, 4))  # [B, F, 4]
            visible = area(boxes) > 0  # [B, F]
            for name in FRAME_POLICIES:
                for draw in range(DRAWS if name == "random" else 1):
                    decision = decide_otherwise(model, learned, videos, Policies(frames=name, draw=draw))
                    found["in_span"][name].append(in_span.gather(1, decision.focus_indices).float().flatten())
            for name in PATCHES:
                for draw in range(DRAWS if name.startswith("random") else 1):
                    patches = patches_of(model, learned, videos, name, draw)
                    found["covered"][name].append((area(intersection(boxes, patches)) / area(boxes))[visible])
                    found["patch_area"][name].append(area(patches).flatten() / model.input_size**2)
    report = {
        table: {name: 100 * float(torch.cat(values).mean().nan_to_num()) for name, values in columns.items()}
        for table, columns in found.items()
    }
    counts = {"videos": len(dataset), "focus_frames": len(dataset) * model.num_focus_segments}
    return report | {"counts": {**counts, "showing_the_badge": len(torch.cat(found["covered"]["learned"]))}}


def patches_of(model: UniAdaFocus, learned: Decision, videos: Tensor, name: str, draw: int) -> Tensor:
    """The patches of the learned focus frames under one of `PATCHES`: boxes [B, F, 4], left, top, right, bottom."""
    place, _, size = name.partition(", ")
    actions = decide_otherwise(model, learned, videos, Policies(patches=place, draw=draw)).focus_actions
    if size == "learned size":
        actions = torch.cat([actions[..., :2], learned.focus_actions[..., 2:]], dim=-1)
    corner, side = actions_to_boxes(actions, model.input_size)  # (y, x)
    return torch.cat([corner.flip(-1), (corner + side).flip(-1)], dim=-1)


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """What lies in both of two boxes [..., 4]; right or bottom is not beyond left or top where nothing does."""
    first, last = torch.maximum(boxes, others), torch.minimum(boxes, others)
    return torch.cat([first[..., :2], last[..., 2:]], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """Boxes [..., 4] -> square pixels [...], 0 where right or bottom is not beyond left or top."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(-1)


def report_lines(report: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The figures for people."""
    counts = report["counts"]
    yield f"{counts['videos']} videos with {counts['focus_frames']} focus frames; percent"
    yield "focus frames in the badge's time span:"
    for name, value in report["in_span"].items():
        yield f"  {name:22s} {value:6.1f}"
    yield f"of the badge inside the patch ({counts['showing_the_badge']} focus frames show it):"
    for name, value in report["covered"].items():
        yield f"  {name:22s} {value:6.1f}   the patch is {report['patch_area'][name]:.1f} of the frame"


def main(arguments: Sequence[str] | None = None) -> int:
    """Report on the checkpoint of the command line; returns the exit code."""
    parser = OneLineParser(description="Compare the policies with the toy dataset's truth.")
    parser.add_argument("--resume", type=Path, required=True, help="checkpoint, of a run on the toy dataset")
    parser.add_argument("--data_dir", help="the toy dataset, where it is not the one that the checkpoint was made with")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args(arguments)
    found = checkpoint.read(given.resume)
    model, options = model_of_checkpoint(found), found.options
    if options.get("dataset") != "toy":
        raise UserError(f"checkpoint {given.resume} was not made with --dataset toy, so the truth is not known")
    config = get_dataset("toy", given.data_dir or options["data_dir"])
    if model.num_classes != config.num_classes:
        raise UserError(
            f"checkpoint {given.resume} has {model.num_classes} classes, the toy videos {config.num_classes}"
        )
    dataset = VideoDataset(config, "val", model.num_segments, model.input_size, training=False)
    with distributed.process_group() as device:
        report = policy_report(model.to(device), dataset, ToyTruth(dataset), device, options["workers"])
    if given.json:
        write_json(given.json, report)
    print(*report_lines(report), sep="\n")
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
