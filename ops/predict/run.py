"""`predict.py` as a whole: from its options to predictions on the terminal and in files."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dataset_config import read_classes
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint
from ops.checkpoint_settings import model_of_checkpoint
from ops.early_exit.thresholds import file_hash, read_thresholds
from ops.inference import check_precision, prepare_for_inference
from ops.predict.output import STDOUT, Table, as_csv, as_json, check_writable, deliver
from ops.predict.paths import FoundVideo, find
from ops.predict.predictor import Failure, Outcome, Predictor
from ops.utils.errors import EXIT_DONE, EXIT_WITH_FAILURES, UserError, tell
from ops.utils.failure_list import printable
from ops.utils.signals import leaving_at_once
from ops.video.frame_folders import FrameSettings
from ops.video.opencv import silence_decoders


@leaving_at_once()
def predict(options: argparse.Namespace) -> int:
    """Predict as the options of `predict.py` say. Returns the exit code; wrong input is a UserError."""
    for target, _ in targets(options):
        check_writable(target)
    silence_decoders()
    device = find_device(options.device)
    check_precision(options.eval_precision, device)
    videos = find(options.videos)
    overrides = {name: getattr(options, name) for name in ("num_segments", "patch_size", "temperature")}
    model = model_of_checkpoint(checkpoint.read(options.resume), overrides).to(device)
    class_names = read_class_names(options, model)
    predictor = build_predictor(options, model, class_names, videos)

    table = None
    if STDOUT not in (options.json, options.csv):
        table = Table([video.path for video in videos], class_names, model.num_focus_segments)
        leaving = f"all {model.num_focus_segments} patches of each video"
        if options.thresholds is not None:
            leaving = f"early exit at operating point {options.operating_point} of {printable(str(options.thresholds))}"
        print(f"{printable(str(options.resume))}: {model.num_classes} classes, {leaving}, on {device}")
        print(table.head(), flush=True)
    outcomes: list[Outcome] = []
    try:
        for outcome in predictor(videos):
            outcomes.append(outcome)
            show(outcome, table)
    except BaseException:  # a stop, a reader that has ended, what concerns all videos: what is done is kept
        keep_unfinished(outcomes, len(videos), class_names, options)
        raise
    if table is not None:
        print(table.foot(outcomes))
    deliver_all(outcomes, class_names, options)
    return EXIT_WITH_FAILURES if any(isinstance(outcome, Failure) for outcome in outcomes) else EXIT_DONE


def show(outcome: Outcome, table: Table | None) -> None:
    """Print a prediction as rows of the table, a failure and warnings on standard error."""
    name = printable(str(outcome.path))
    if isinstance(outcome, Failure):
        print(f"failed: {name}: {printable(outcome.reason)}", file=sys.stderr, flush=True)
        return
    if table is not None:
        print(table.rows(outcome), flush=True)
    if outcome.replaced:
        warning = f"{outcome.replaced} frames could not be read; the nearest good ones stand for them"
        print(f"warning: {name}: {warning}", file=sys.stderr, flush=True)


def targets(options: argparse.Namespace) -> list[tuple[str, Callable[[Sequence[Outcome], Sequence[str]], bytes]]]:
    """Where predictions are to be delivered, and in which form."""
    return [(target, form) for target, form in ((options.json, as_json), (options.csv, as_csv)) if target is not None]


def deliver_all(outcomes: Sequence[Outcome], class_names: Sequence[str], options: argparse.Namespace) -> None:
    """Write the predictions wherever they are to be; where one place fails, the others first. Raises UserError."""
    failed: list[UserError] = []
    for target, form in targets(options):
        try:
            deliver(form(outcomes, class_names), target)
        except UserError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def keep_unfinished(
    outcomes: Sequence[Outcome], videos: int, class_names: Sequence[str], options: argparse.Namespace
) -> None:
    """Write what there is of the predictions beside the files that were to hold all, as NAME.partial.json or .csv."""
    for target, form in targets(options):
        if outcomes and target != STDOUT:
            beside = Path(target).with_suffix(f".partial{Path(target).suffix}")
            deliver(form(outcomes, class_names), str(beside))
            tell(f"the {len(outcomes)} of {videos} videos that are done are in {printable(str(beside))}", sys.stderr)


def find_device(name: str | None) -> torch.device:
    """The device of the option, by default the first GPU where there is one. Raises UserError where it is absent."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
        raise UserError(f"--device {name} cannot be used ({str(error).splitlines()[0]}); try --device cpu") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is not supported: choose cpu or cuda")
    return device


def read_class_names(options: argparse.Namespace, model: UniAdaFocus) -> tuple[str, ...]:
    """The names in --classes, else the labels. Raises UserError where there are more or fewer than the model knows."""
    if options.classes is None:
        return tuple(map(str, range(model.num_classes)))
    names = read_classes(options.classes)
    if len(names) != model.num_classes:
        raise UserError(
            f"{options.classes} names {len(names)} classes, but checkpoint {options.resume} knows {model.num_classes}: "
            "give the class file that it was trained with"
        )
    return names


def build_predictor(
    options: argparse.Namespace, model: UniAdaFocus, class_names: Sequence[str], videos: Sequence[FoundVideo]
) -> Predictor:
    """The predictor of the options, with early exit and pictures where they are asked for."""
    settings = FrameSettings(height=options.height, frame_rate=None if options.frame_rate == -1 else options.frame_rate)
    thresholds, criterion = None, "confidence"
    if options.thresholds is not None:
        checkpoint_hash = file_hash(options.resume)
        thresholds, criterion = read_thresholds(options.thresholds, options.operating_point, model, checkpoint_hash)
    illustrate = None
    if options.save_images or options.save_video:
        from ops.predict.pictures import Illustrator  # brings in matplotlib, which takes a second

        paths = [video.path for video in videos]
        illustrate = Illustrator(class_names, paths, options.save_images, options.save_video)
    return Predictor(
        prepare_for_inference(model, options.eval_precision),
        thresholds,
        criterion,
        topk=options.topk,
        batch_size=options.batch_size,
        settings=settings,
        decode=options.decode,
        illustrate=illustrate,
    )
