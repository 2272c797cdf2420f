"""The end of `make demo`: what the network that was just trained on toy videos is worth, in one table and in pictures.

    python main_semiAMP.py --dataset toy
    python results/demo.py                     # options as for the training

It ends with two videos that are predicted from their files. Pictures: demo/, one video of each class.
"""

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in results/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import predict
from dataset_config import get_dataset
from ops import checkpoint
from ops.early_exit.run import PICTURE
from ops.early_exit.thresholds import result_file
from ops.toy.dataset import CLASS_FILE, VIDEOS_FOLDER, ToySettings
from ops.utils.errors import UserError, run_entry
from ops.utils.session import run_folder
from opts import build_parser, parse_options
from results.toy import CRITERION, measure

PICTURES = Path("demo")
POINTS = (10, 15, 19)  # of early exit
POLICIES = {
    "where the policies say": ("learned", "learned"),
    "patches at random": ("random", "learned"),
    "patches in the centre": ("center", "learned"),
    "frames evenly spread": ("learned", "uniform"),
}


def table(found: Mapping[str, Any], classes: int) -> Iterator[str]:
    """Lines for people. found: as `results.toy.measure` returns."""
    yield f"Accuracy on {found['policies']['counts']['videos']} new videos of {classes} classes, in percent:"
    for number, exit in enumerate(found["fixed_exits"]):
        name = f"after patch {number}" if number else "after the glance"
        yield f"  {name:26s} {exit['metric']:6.1f}   {exit['gflops']:.2f} GFLOPs a video"
    yield "Each video leaves once the network is sure enough (early exit):"
    for point in found["early_exit"][CRITERION]:
        if point["p"] in POINTS:
            name = f"operating point {point['p']:.0f}"
            yield f"  {name:26s} {point['metric']:6.1f}   {point['gflops']:.2f} GFLOPs a video on average"
    yield "All patches, but chosen in another way:"
    metric = {(row["patch_policy"], row["frame_policy"]): row["metric"] for row in found["ablation"]}
    yield from (f"  {name:26s} {metric[policies]:6.1f}" for name, policies in POLICIES.items())
    in_span, covered = found["policies"]["in_span"], found["policies"]["covered"]
    yield "How well it looks:"
    for name, share, chance in (
        ("frames that show the badge", in_span["learned"], in_span["random"]),
        ("of the badge in the patch", covered["learned"], covered["random, base size"]),
    ):
        yield f"  {name:26s} {share:6.1f}   at random {chance:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the run of the command line's options, and show it; returns the exit code."""
    command = ["--dataset", "toy", *(sys.argv[1:] if arguments is None else arguments)]
    options = parse_options(build_parser("What a run on toy videos is worth."), command)
    folder = run_folder(options)
    last = folder / checkpoint.LAST
    if not last.is_file():
        raise UserError(f"{last} is not there: train first, with main_semiAMP.py --dataset toy and these options")
    found = measure(command, folder, pairs="single")
    data_dir = Path(options.data_dir)
    classes = get_dataset("toy", data_dir).num_classes
    # Labels go round, so that the first videos are one of each class.
    files = [str(data_dir / VIDEOS_FOLDER / f"val_{number:04d}.mp4") for number in range(1, classes + 1)]
    given = ["--resume", str(last), "--classes", str(data_dir / CLASS_FILE), "--topk", "1"]
    given += ["--height", str(ToySettings().height)]
    print("pictures", flush=True)
    with contextlib.redirect_stdout(io.StringIO()):
        predict.main([*files, *given, "--save_images", str(PICTURES)])
    print("", *table(found, classes), sep="\n")
    print(f"Pictures of one video of each class: {PICTURES}/   Accuracy over GFLOPs: {folder / PICTURE}")
    print("\nTwo videos, from their files, with early exit:", flush=True)
    thresholds = ["--thresholds", str(result_file(folder, CRITERION, "json")), "--operating_point", str(POINTS[-1])]
    clear_at_a_glance, not_clear = files[classes // 4], files[classes // 2]
    return predict.main([clear_at_a_glance, not_clear, *given, *thresholds])


if __name__ == "__main__":
    run_entry(main)
