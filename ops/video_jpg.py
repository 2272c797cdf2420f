"""Turn a folder of videos into folders of JPEG frames, and with a table of labels into a dataset.

    python ops/video_jpg.py VIDEOS DATA/frames --parallel
    python ops/video_jpg.py VIDEOS DATA/frames --parallel --frame_rate 1                  # FCVID
    python ops/video_jpg.py VIDEOS DATA/frames --parallel --write_split labels.csv        # a dataset of your own

The last line then reads, for instance,

    done: 120 videos made, 0 redone, 3 already there, 1 failed; 36000 frames in 71.2 s (506 frames/s)

VIDEOS/cooking/soup.mp4 becomes DATA/frames/cooking/soup/image_00001.jpg and so on, 360 pixels high. Run the same
command again after a stop or a failure: finished videos are skipped, unfinished ones redone. Videos that failed, or
were kept although short or damaged, are listed in DATA/frames/failed.txt, and the exit code is then 1. How frames were
made is in DATA/frames/how_made.json; a run with other options stops.

The program ffmpeg makes the frames where it is installed (`apt-get install ffmpeg`): exactly those of the published
command, `ffmpeg -i VIDEO -vf scale=-1:360 [-r RATE] image_%05d.jpg`. A damaged or short video is kept if at least 90 %
of the promised frames came, and is listed with both counts; `--strict` refuses it.

Without ffmpeg, OpenCV reads plain videos: constant rate, progressive, starting at zero. It refuses others, and says so.
Its scaling is its own, and `--jpeg_quality` is for it: on a synthetic 640x360 clip (benchmarks/extraction.py) the
published command gives 27.2 dB PSNR at 12 kB per frame, OpenCV 26.9 dB at 16 kB with the default 18, 28.4 dB at 21 kB
with 30 and 32.2 dB at 42 kB with 75.

The published split files count on one frame per second for FCVID (`--frame_rate 1`) and on the videos' own rate for
ActivityNet and Mini-Kinetics (the default). At 11 to 13.5 kB per frame, as measured on ActivityNet, its 49 million
frames take 0.55 to 0.66 TB, FCVID's 15 million 0.17 to 0.21 TB, and the 33 to 39 million of Mini-Kinetics 0.37 to
0.53 TB. A run begins with an estimate, and stops at once where that does not fit on the disk.

`--write_split` writes classInd.txt, train_split.txt and val_split.txt into DATA, the folder that holds the frames root;
`ops.video.split_files` says what the table looks like.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

if __name__ == "__main__":  # started by its path: look for modules in the repository, not in ops/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dataset_config import BUILT_IN, BuiltIn
from ops.utils.cores import available_cores
from ops.utils.errors import EXIT_DONE, EXIT_WITH_FAILURES, UserError, run_entry
from ops.utils.failure_list import FAILED_FILE, printable
from ops.video.extraction import Summary, extract_videos
from ops.video.frame_folders import BACKENDS, DEFAULT_HEIGHT, DEFAULT_JPEG_QUALITY, FrameSettings, FrameTemplate
from ops.video.frames_root import estimate
from ops.video.plan import ACCEPTED_FORMATS, PlannedVideo, Selection, find_videos, plan
from ops.video.split_files import LabelledVideo, read_labels, write_split_files
from opts import OneLineParser

DATASETS = ("actnet", "fcvid", "minik")
_FAILURES_TO_NAME = 5


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("dir_path", type=Path, help="folder of videos; those in sub-folders count too")
    parser.add_argument("dst_dir_path", type=Path, help="folder for the frames, one folder per video inside")

    which = parser.add_argument_group("which videos")
    which.add_argument(
        "--accepted_formats",
        nargs="+",
        default=list(ACCEPTED_FORMATS),
        metavar="ENDING",
        help="endings of video files, in any case (default: " + " ".join(ACCEPTED_FORMATS) + ")",
    )
    which.add_argument(
        "--file_list", type=Path, help="text file: only the videos named there, one per line, in that order"
    )
    which.add_argument("--begin", type=int, default=0, help="first video of the list, from 0 (default: 0)")
    which.add_argument("--end", type=int, default=666666666, help="last video of it, counted in (default: all)")

    frames = parser.add_argument_group("frames")
    frames.add_argument("--dataset", choices=DATASETS, help="name the frames, and write splits, as in this dataset")
    frames.add_argument("--prefix", help="names of the frames, %%-style or {}-style (default: image_%%05d.jpg)")
    frames.add_argument(
        "--frame_rate", type=float, default=-1, help="frames per second (default: -1, the file's own rate)"
    )
    frames.add_argument("--height", type=int, default=DEFAULT_HEIGHT, help="in pixels (default: %(default)s)")
    frames.add_argument(
        "--jpeg_quality", type=int, help=f"0..100, of --backend opencv (default: {DEFAULT_JPEG_QUALITY}); see above"
    )
    frames.add_argument(
        "--backend",
        choices=BACKENDS,
        default=BACKENDS[0],
        help="auto: the program ffmpeg where it is installed, else OpenCV (default: %(default)s)",
    )
    frames.add_argument("--strict", action="store_true", help="refuse every video that is damaged or short")

    work = parser.add_argument_group("work")
    work.add_argument(
        "--parallel", action="store_true", help="a video at a time for each core (default: two with ffmpeg, else one)"
    )
    work.add_argument(
        "--num_workers",
        type=int,
        default=available_cores(),
        help="videos at a time with --parallel (default: as many as cores)",
    )
    work.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would be done with each video, and the estimate; write nothing",
    )
    work.add_argument(
        "--write_split",
        type=Path,
        metavar="LABELS.csv",
        help="table with columns video, label and perhaps split (train or val; by default a fifth of each class goes "
        "to val); writes (replaces) classInd.txt, train_split.txt and val_split.txt beside dst_dir_path",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options (by default the command line) and run; returns the exit code."""
    args = make_parser().parse_args(argv)
    dataset_template, separator = _dataset_format(args.dataset)
    settings = FrameSettings(
        FrameTemplate.parse(args.prefix or dataset_template),
        args.height,
        None if args.frame_rate == -1 else args.frame_rate,
        DEFAULT_JPEG_QUALITY if args.jpeg_quality is None else args.jpeg_quality,
        args.backend,
        strict=args.strict,
    )
    if args.jpeg_quality is not None and settings.uses_ffmpeg:
        raise UserError("--jpeg_quality is for --backend opencv; ffmpeg writes its default quality, as published")
    # With ffmpeg two at a time, as one alone leaves cores idle at the start and at the end of each video.
    workers = args.num_workers if args.parallel else min(2 if settings.uses_ffmpeg else 1, available_cores())
    if workers < 1:
        raise UserError(f"{workers} workers cannot do anything: give 1 or more")
    if not 0 <= args.begin <= args.end:
        raise UserError(f"--begin {args.begin} --end {args.end}: give numbers from 0, the last one counted in")
    selection = Selection(args.accepted_formats, args.begin, args.end, args.file_list)
    labels = None
    if args.write_split is not None:
        videos = find_videos(args.dir_path, args.dst_dir_path, args.accepted_formats)
        labels = read_labels(args.write_split, videos, separator)
    if args.dry_run:
        planned = plan(args.dir_path, args.dst_dir_path, settings.template, selection)
        _print_plan(planned)
        to_make = [args.dir_path / video.name for video in planned if video.action in ("make", "redo")]
        print(estimate(to_make, args.dst_dir_path, settings))
        return EXIT_DONE

    summary = Summary()
    try:
        with _sigterm_raises():
            extract_videos(
                args.dir_path,
                args.dst_dir_path,
                settings,
                selection,
                workers=workers,
                progress=True,
                summary=summary,
            )
    except (KeyboardInterrupt, _Terminated) as stop:
        print(f"stopped: {summary}. Run the same command again to go on.", flush=True)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    listed = [*(("failed", *entry) for entry in summary.failed), *(("kept", *entry) for entry in summary.flawed)]
    for word, name, reason in listed[:_FAILURES_TO_NAME]:
        print(f"{word}: {printable(name)}: {printable(reason)}", file=sys.stderr)
    if len(listed) > _FAILURES_TO_NAME:
        failed_file = printable(str(args.dst_dir_path / FAILED_FILE))
        print(f"and {len(listed) - _FAILURES_TO_NAME} more; see {failed_file}", file=sys.stderr)
    if labels is not None:
        _write_splits(labels, args.dst_dir_path, settings.template, separator)
    print(f"done: {summary}", flush=True)
    return EXIT_WITH_FAILURES if listed else EXIT_DONE


def _dataset_format(dataset: str | None) -> tuple[str, str]:
    """(frame template, separator between the fields of a split file)."""
    known = BUILT_IN[dataset] if dataset else BuiltIn()
    return known.template, known.separator


def _print_plan(planned: Sequence[PlannedVideo]) -> None:
    words = {"make": "would make", "redo": "would redo", "skip": "already there", "fail": "would fail"}
    for video in planned:
        where = f": {video.reason}" if video.action == "fail" else f" -> {video.folder}"
        print(f"{words[video.action]}: {printable(video.name)}{printable(where)}")
    counts = ", ".join(f"{sum(video.action == action for video in planned)} {words[action]}" for action in words)
    print(f"dry run, nothing written: {counts}")


def _write_splits(labels: Sequence[LabelledVideo], frames_root: Path, template: FrameTemplate, separator: str) -> None:
    folder = Path(os.path.abspath(frames_root)).parent
    written = write_split_files(labels, frames_root, folder, template, separator)
    if written.left_out:
        name, reason = written.left_out[0]
        print(
            f"warning: {len(written.left_out)} labelled videos are in no split, such as {printable(name)}: it {reason}",
            file=sys.stderr,
        )
    counts = f"{written.classes} classes, {written.train} training and {written.val} validation videos"
    print(f"{printable(str(folder))}: {counts}")


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone can
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    run_entry(main)
