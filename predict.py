"""Say what videos show: files, folders of them, or folders of frames.

    python predict.py VIDEO.mp4 FOLDER --resume ckpt/actnet_p128.pth.tar --classes PATH_TO_DATASET/classInd.txt
    python predict.py FOLDER --resume LOG_DIR/ckpt.best.pth.tar --classes classInd.txt \\
        --thresholds LOG_DIR/early_exit_confidence.json --operating_point 10 --json predictions.json
    python predict.py VIDEO.mp4 --resume LOG_DIR/ckpt.best.pth.tar --save_images pictures --save_video clips

For each video it prints the likeliest classes, how many patches were looked at, the GFLOPs and the time that took.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ops.utils.errors import run_entry
from opts import OneLineParser, add_decode_option, add_precision_option, positive, whole

DEFAULT_OPERATING_POINT = 10  # of 1..19: between "leave early" and "leave late"


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="video file, folder of videos (sub-folders too), folder of frames image_00001.jpg ..., or pattern",
    )

    model = parser.add_argument_group("model", "its sizes and settings come from the checkpoint")
    model.add_argument("--resume", type=Path, required=True, metavar="CKPT", help="checkpoint, ours or a published one")
    model.add_argument("--classes", type=Path, metavar="FILE", help="class names, one per line (default: numbers)")
    for name, kind, published in (("num_segments", whole(1, 10_000), 48), ("patch_size", whole(1), 128)):
        text = f"for a checkpoint that does not say it, such as a published one (default: {published})"
        model.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    model.add_argument("--temperature", type=positive, metavar="X", help="likewise (default: 1)")

    leaving = parser.add_argument_group("early exit")
    leaving.add_argument(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="early_exit_{confidence,entropy}.json of this checkpoint, from test_early_exit_uni_adafocus.py "
        "(default: every video gets all patches)",
    )
    leaving.add_argument(
        "--operating_point",
        type=whole(1),
        metavar="P",
        help=f"1..19, larger: later exits, more GFLOPs (default: {DEFAULT_OPERATING_POINT})",
    )

    work = parser.add_argument_group("work")
    work.add_argument("--batch_size", type=whole(1), default=8, metavar="N", help="videos at a time (default: 8)")
    work.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda if there is one)")
    rate = "frames per second (default: -1, the file's own rate)"
    work.add_argument("--frame_rate", type=float, default=-1, metavar="R", help=rate)
    work.add_argument(
        "--height", type=whole(1), default=360, metavar="N", help="pixels that frames are scaled to (default: 360)"
    )

    add_decode_option(work)
    add_precision_option(work)

    output = parser.add_argument_group("output")
    output.add_argument("--topk", type=whole(1), default=5, metavar="K", help="classes to tell per video (default: 5)")
    output.add_argument("--json", metavar="FILE", help="write a list of objects; - for standard output, then no table")
    output.add_argument("--csv", metavar="FILE", help="write a row per video and class; - likewise")
    output.add_argument("--save_images", type=Path, metavar="DIR", help="a picture per video of what was looked at")
    output.add_argument(
        "--save_video",
        type=Path,
        metavar="DIR",
        help="each video with the patch drawn in it, as H.264 where ffmpeg has libx264, else as MPEG-4 Part 2",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options (by default the command line) and run; returns the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.operating_point is not None and options.thresholds is None:
        parser.error("--operating_point needs --thresholds, the file that it stands in")
    options.operating_point = options.operating_point or DEFAULT_OPERATING_POINT
    if options.json == options.csv == "-":
        parser.error("--json - and --csv - would mix: give one of them a file")
    if options.json and options.csv and os.path.realpath(options.json) == os.path.realpath(options.csv):
        parser.error(f"--json and --csv are both to be {options.csv}: give one of them another name")
    from ops.predict.run import predict  # torch takes seconds to import; --help and wrong options should not

    return predict(options)


if __name__ == "__main__":
    run_entry(main)
