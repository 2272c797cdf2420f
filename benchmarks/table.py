"""All benchmarks, small, and one table at the end: what, yardstick, ours, ratio, largest difference of outputs.

    python benchmarks/table.py
    python benchmarks/table.py --only network metrics
    python benchmarks/table.py --rounds 5 --batch_size 4

A few minutes on two cores. Each benchmark first says what it has to say; README.md in this folder tells what they
measure. Where other programs run too, times and ratios of a few rounds are rough.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):  # by its path: look for modules in the repository, not in benchmarks/
    import sys

    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from ops.waiting import wait_briefly

    wait_briefly()  # before torch is loaded

import torch

from benchmarks import early_exit, extraction, loading, start
from benchmarks.baseline import NAMES, Contestant, add_size_options, difference_in_double, step_of
from benchmarks.measuring import largest_difference, median, peak_memory, ratio, take_turns
from benchmarks.rows import Row, table
from benchmarks.scaling import exit_curves_row, metrics_row
from ops.errors import EXIT_DONE, UserError, run_entry
from ops.inference_network import check_precision, prepare_for_inference

JPEG_QUALITY = 30  # OpenCV's nearest to what ffmpeg writes by default


def data_rows(arguments: argparse.Namespace) -> list[Row]:
    """Videos to frames, and frames to clips."""
    with loading.one_core():
        rows = [extraction.compare(150, arguments.rounds, [JPEG_QUALITY])]
    with tempfile.TemporaryDirectory() as work:
        loading.write_videos(Path(work), 4, JPEG_QUALITY)
        for mode in loading.MODES:
            sizes = {"videos": 4, "rounds": arguments.rounds, "batches": 4, "quality": JPEG_QUALITY}
            rows.append(loading.compare_clips(Path(work), mode=mode, **sizes))
    return rows


def network_rows(arguments: argparse.Namespace) -> list[Row]:
    """Training and evaluation against the published cost structure."""
    contestants = {name: Contestant(name, arguments, "float32") for name in NAMES}
    return [*evaluation_rows(contestants, arguments), *training_rows(contestants, arguments)]


def evaluation_rows(contestants: dict[str, Contestant], arguments: argparse.Namespace) -> list[Row]:
    """The published evaluation against ours, in float32 and, where the CPU has it, in bfloat16."""
    ways = {name: contestant.evaluate for name, contestant in contestants.items()}
    titles = {"ours": "float32"}
    try:
        check_precision("bfloat16", torch.device("cpu"))
    except UserError as error:
        print(error)
    else:
        ours = contestants["ours"]
        lower = prepare_for_inference(ours.model.eval(), "bfloat16")
        ways["lower"], titles["lower"] = torch.inference_mode()(lambda: lower(ours.frames)), "bfloat16"
    seconds, outputs = take_turns(ways, arguments.rounds, torch.device("cpu"))
    rows = []
    for way, title in titles.items():
        difference, where = largest_difference(vars(outputs["yardstick"]), vars(outputs[way]))
        there, here = (arguments.batch_size / median(seconds[name]) for name in ("yardstick", way))
        gain = ratio(seconds["yardstick"], seconds[way])
        what = f"evaluation, {title}, videos/s"
        rows.append(Row(what, there, here, gain, f"{difference:.1e} ({where}, random weights)"))
    return rows


def training_rows(contestants: dict[str, Contestant], arguments: argparse.Namespace) -> list[Row]:
    """A training step: seconds, and memory."""
    steps = {name: contestant.step for name, contestant in contestants.items()}
    seconds, _ = take_turns(steps, arguments.rounds, torch.device("cpu"))
    there, here = (median(seconds[name]) for name in NAMES)
    gain = ratio(*(seconds[name] for name in NAMES))
    difference, where = difference_in_double(arguments)
    note = f"{difference:.1e} of losses and gradients in float64 ({where})"
    rows = [Row("training step, float32, s", there, here, gain, note)]
    there, here = (peak_memory(step_of, name, arguments, "float32") for name in NAMES)
    return [*rows, Row("memory of a training step, GB", there, here, there / here, "")]


def early_exit_rows(arguments: argparse.Namespace) -> list[Row]:
    """What a video costs that may leave early, against the same network without exits."""
    fields = vars(arguments) | {"videos": 4, "batch_size": 1, "focus_chunk": 1, "p": [10], "device": "cpu"}
    _, rows = early_exit.compare(argparse.Namespace(**fields))
    return rows


def metrics_rows(arguments: argparse.Namespace) -> list[Row]:
    """mAP of a large split, and the early-exit curves."""
    return [metrics_row(), exit_curves_row()]


def start_rows(arguments: argparse.Namespace) -> list[Row]:
    """How long a user waits for the first sign of life."""
    return start.measure(rounds=1)


PARTS = {
    "data": data_rows,
    "network": network_rows,
    "early_exit": early_exit_rows,
    "metrics": metrics_rows,
    "start": start_rows,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    add_size_options(parser, batch_size=2, rounds=3)
    arguments = parser.parse_args(argv)
    arguments.device = "cpu"
    rows = []
    for part in arguments.only:
        print(f"\n--- {part} ---", flush=True)
        rows += PARTS[part](arguments)
    print(f"\n{torch.get_num_threads()} thread(s), PyTorch {torch.__version__}, {arguments.rounds} round(s)")
    print(table(rows))
    return EXIT_DONE


if __name__ == "__main__":
    run_entry(main)
