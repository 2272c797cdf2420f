"""What an evaluation leaves beside its metrics: pictures and tables in TensorBoard while training, files afterwards."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from dataset_config import DatasetConfig
from models.spatial_policy import actions_to_boxes
from models.uni_adafocus import UniAdaFocus
from ops.data.dataset import VideoDataset
from ops.data.sources import FolderFrames
from ops.data.transforms import evaluation_frames
from ops.engine import Evaluated
from ops.inference import prepare_for_inference
from ops.metrics import classes_without_video
from ops.report import classes
from ops.report.curves import draw_run
from ops.report.inspection import inspect_videos
from ops.report.inspection_figure import inspection_figure
from ops.utils import distributed
from ops.utils.logger import METRICS_FILE, RunLogger
from ops.utils.session import Run

COMPARED = 8  # videos whose predictions below float32 are compared with float32's
PICTURES = 3  # videos shown at every evaluation, always the same
DOTS_PER_INCH = 110  # of their pictures, which stay in the event file for every evaluation
THREADS = 4  # that decode their frames


def show_in_tensorboard(
    logger: RunLogger, model: UniAdaFocus, dataset: VideoDataset, evaluated: Evaluated, epoch: int
) -> None:
    """Add to TensorBoard, on the main process, the choices of the policies and the results of each class.

    inspection/*: a few videos, evenly spread over the split. patches/*: histograms over all videos and glance frames of
    the patches' centres and sides, in pixels of the frame; frames/weight: of the frame weights. classes/per_class: a
    table; classes/confusion: the confusion matrix, where no video has a second label.
    model: in evaluation mode. Raises UserError for a video that cannot be read and where the log cannot be written.
    """
    names, labels = dataset.config.classes, dataset.labels
    rows = spread_rows(len(dataset), PICTURES)
    with ThreadPoolExecutor(THREADS) as threads:
        inspections = inspect_videos(model, FolderFrames(dataset, rows, threads))
    dataset.reset_replaced()  # the evaluation has counted these frames
    for number, (row, inspection) in enumerate(zip(rows, inspections, strict=True), start=1):
        frames = int(dataset.annotations.frames[row])
        figure = inspection_figure(
            inspection,
            title=dataset.video_name(row),
            class_names=names,
            truth=[label for label in labels[row].tolist() if label >= 0],
            times=evaluation_frames(num_frames=frames, num_segments=dataset.num_segments),
            unit="frame",
        )
        figure.set_dpi(DOTS_PER_INCH)
        logger.figure(f"inspection/{number}", figure, epoch)
    corner, side = actions_to_boxes(evaluated.actions, model.input_size)  # [N, G, 2] each
    for place, axis, length in ((0, "y", "height"), (1, "x", "width")):
        centre = corner[..., place] + side[..., place] / 2
        logger.histogram(f"patches/centre_{axis}", centre.numpy(), epoch)
        logger.histogram(f"patches/{length}", side[..., place].numpy(), epoch)
    logger.histogram("frames/weight", evaluated.frame_weights.numpy(), epoch)
    results = classes.class_results(evaluated.logits, labels, dataset.config.metric, names)
    logger.text("classes/per_class", classes.per_class_table(results, dataset.config.metric), epoch)
    if classes.has_one_label(labels):
        confusions = classes.confusion_matrix(evaluated.logits, labels)
        logger.figure("classes/confusion", classes.confusion_figure(confusions, names), epoch)


@distributed.fail_together()
def report_precision(run: Run, model: UniAdaFocus, dataset: VideoDataset) -> None:
    """With an `--eval_precision` below float32, log how far the predictions of a few videos are from those in float32.

    model: in evaluation mode, not prepared for inference. Raises UserError for a video that cannot be read.
    """
    precision = run.options.eval_precision
    if precision == "float32" or not distributed.is_main_process():
        return
    rows = spread_rows(len(dataset), COMPARED)
    frames = torch.stack([dataset[row][0] for row in rows]).to(run.device)
    dataset.reset_replaced()  # the evaluation has counted these frames
    with torch.inference_mode():
        lower, full = (prepare_for_inference(model, name)(frames).logits.softmax(1) for name in (precision, "float32"))
    same = int((lower.argmax(1) == full.argmax(1)).sum())
    run.log.line(
        f"{precision}: {same} of {len(rows)} videos with the first class of float32, "
        f"probabilities at most {(lower - full).abs().max():.3f} apart"
    )


def report_left_out_classes(logger: RunLogger, config: DatasetConfig, labels: Tensor) -> None:
    """Log how many classes a mAP over videos of these labels, int64 [N, 3], leaves out, where it does."""
    if config.metric == "map" and (note := classes_without_video(labels, config.num_classes)):
        logger.line(f"warning: {note}")


def spread_rows(videos: int, number: int) -> list[int]:
    """That many rows, or as many as there are, evenly spread over a split."""
    return sorted({(2 * place + 1) * videos // (2 * number) for place in range(number)})


def of_checkpoint(name: str, folder: Path, checkpoint: Path) -> str:
    """What a result of a checkpoint is called in a log folder: `name`, or where a run is in the folder and the
    checkpoint is from elsewhere, `name` with that of the checkpoint, so that the results of the run stay."""
    holds_a_run = (folder / METRICS_FILE).exists() or any(folder.glob("ckpt*.pth.tar"))
    if not holds_a_run or checkpoint.resolve().parent == folder.resolve():
        return name
    stem, dot, ending = name.rpartition(".")
    return f"{stem}_of_{checkpoint.name.removesuffix('.tar').removesuffix('.pth')}{dot}{ending}"


def write_files(logger: RunLogger, dataset: VideoDataset, evaluated: Evaluated, checkpoint: Path) -> None:
    """Write per_class.csv, and curves.png where the checkpoint's own run is in the log folder; say where they are.

    Raises UserError where a file cannot be written.
    """
    at_home = checkpoint.resolve().parent == logger.folder.resolve()
    name = of_checkpoint("per_class.csv", logger.folder, checkpoint)
    results = classes.class_results(evaluated.logits, dataset.labels, dataset.config.metric, dataset.config.classes)
    classes.write_per_class(logger.folder / name, results, dataset.config.metric)
    curves = draw_run(logger.folder) if at_home else None
    logger.line(f"Each class: {logger.folder / name}" + (f"; curves of the run: {curves}" if curves else ""))
