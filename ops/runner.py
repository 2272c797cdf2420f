"""Runs the epochs: train, evaluate, log, save. The two main scripts differ in one argument of `run`."""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from models.uni_adafocus import UniAdaFocus
from ops import checkpoint, engine
from ops.ablation import compare_policies, forward_of_policies
from ops.data.check import ReplacedFrames, check_only, report_replaced
from ops.data.dataset import VideoDataset
from ops.data.loaders import EvaluationBatches, TrainingBatches, open_loader
from ops.engine import Batch, TrainingState
from ops.inference import prepare_for_inference
from ops.loss_history import Averages, LossHistory
from ops.metrics import MAIN_METRIC
from ops.optim import learning_rate, set_learning_rate
from ops.report.curves import draw_run
from ops.report.files import save_predictions
from ops.report.outputs import report_left_out_classes, report_precision, show_in_tensorboard, write_files
from ops.setup import Data, build_training, find_dataset, load_data, share_of_evaluation_batch, trained_model
from ops.summary import print_summary
from ops.utils import distributed
from ops.utils.errors import EXIT_DONE, UserError, is_first_process
from ops.utils.session import Run, start
from ops.utils.signals import Stopped

LAST_EPOCHS_EVALUATED = 9
PUBLISHED_LABELS = {"loss": "Loss", "Acc_pred@1": "Prec@1", "Acc_pred@5": "Prec@5"}  # of console lines


def run(options: argparse.Namespace, mixed_precision: bool) -> int:
    """Train, or with `--evaluate` evaluate, as the options say. Returns the exit code; wrong input is a UserError."""
    split_names = ("val",) if options.evaluate else ("train", "val")
    if (code := inspect_only(options, split_names)) is not None:
        return code
    with start(options) as run:
        torch.backends.cudnn.benchmark = True  # sizes are the same in every step; as published
        data = load_data(run, split_names)
        if options.evaluate:
            evaluate_checkpoint(run, data)
        else:
            state = build_training(run, data, mixed_precision)
            open_log(run, state, MAIN_METRIC[data.config.metric])
            train(run, state, data)
    return run.exit_code


def inspect_only(options: argparse.Namespace, split_names: tuple[str, ...]) -> int | None:
    """Do what `--summary` and `--check_data` ask for, which is all there is to do then: the exit code, else None."""
    if options.summary:
        return print_summary(options)
    if options.check_data:
        return check_only(options, find_dataset(options), split_names) if is_first_process() else EXIT_DONE
    return None


def train(run: Run, state: TrainingState, data: Data) -> None:
    """All epochs: train, evaluate when due, log, save. Raises Stopped, after saving, when a signal comes."""
    options, main_metric = run.options, MAIN_METRIC[data.config.metric]
    batches = TrainingBatches(
        len(data.train), options.batch_size, options.seed, distributed.rank(), distributed.world_size()
    )
    if state.epoch >= options.epochs:
        run.log.line(
            f"warning: nothing to train: {state.epoch} epochs are already done, and --epochs is {options.epochs}"
        )
    with open_loader(data.train, batches, options.workers, run.device) as loader:
        for epoch in range(state.epoch, options.epochs):
            lr = learning_rate(epoch, options.epochs, options.lr, options.lr_type, options.lr_steps)
            set_learning_rate(state.optimizer, lr)
            batches.set_epoch(epoch, state.step)
            data.train.set_epoch(epoch)
            losses = train_epoch(run, state, data, run.log.progress(loader, f"epoch {epoch}"), lr)
            metrics = evaluate_if_due(run, state, data)
            is_best = metrics is not None and (state.best is None or metrics[main_metric] > state.best)
            if metrics is not None:
                state.best = metrics[main_metric] if is_best else state.best
                run.log.line(f"Best {main_metric}: {state.best:.3f}")
            record(run, state, data, lr, losses, metrics)
            state.epoch, state.step, state.losses, state.replaced = epoch + 1, 0, None, {}
            # After an evaluation, the save made just before it has already rotated the older checkpoints.
            save(run, state, data, options.keep if metrics is None else 0, is_best)
    with distributed.fail_together():
        if distributed.is_main_process():
            draw_run(run.log.folder)
    best = "no evaluation" if state.best is None else f"best {main_metric} {state.best:.3f}"
    run.log.line(f"Done: {best}; logs and checkpoints in {run.log.folder}")


def train_epoch(run: Run, state: TrainingState, data: Data, batches: Iterable[Batch], lr: float) -> dict[str, float]:
    """What is left of an epoch. Returns means and replaced frames of the whole of it, and how fast this process's part
    went, where there was any left."""
    options, first_step, began = run.options, state.step, time.perf_counter()
    steps = len(data.train) // options.batch_size
    history = LossHistory(state.epoch, data.train.video_name, state.losses)
    replaced = ReplacedFrames(data.train, state.replaced)
    for step in engine.train_steps(
        state,
        batches,
        seed=options.seed,
        kl_ratio=options.KL_ratio,
        norm_ratio=options.norm_ratio,
        pieces=options.grad_accum,
    ):
        history.append(step)
        replaced.append(step.videos)
        number = state.step - 1
        if number % options.print_freq == 0 or state.step == steps:
            place = f"Epoch: [{state.epoch}][{number}/{steps}], lr: {lr:.5f}"
            run.log.line(training_line(place, history.flush(), history.epoch_averages()), progress=True)
        stop = run.stop.agreed()
        before_evaluation = state.step == steps and evaluation_is_due(state.epoch, options.epochs, options.eval_freq)
        if stop or before_evaluation or (options.save_freq and state.step % options.save_freq == 0):
            state.losses, state.replaced = history.totals(), replaced.totals()
            save(run, state, data, options.keep)
        if stop:
            raise Stopped(stop)
    state.losses = history.totals()
    averages = history.epoch_averages()
    speed = {}
    if state.step > first_step:  # an interrupted run may have left nothing but the evaluation
        videos = (state.step - first_step) * options.batch_size
        speed = {"videos_per_second": videos / (time.perf_counter() - began), "data_time": averages.data_seconds}
    if run.device.type == "cuda" and (line := line_on_waiting(averages)):
        run.log.line(line)
    frames = report_replaced(data.train, run.log.line, f"epoch {state.epoch}")
    return averages.figures | speed | {"replaced_frames": frames}


def evaluate_if_due(run: Run, state: TrainingState, data: Data) -> dict[str, float] | None:
    """Metrics of the validation split if an evaluation is due after this epoch; the epoch has already been saved."""
    options = run.options
    if not evaluation_is_due(state.epoch, options.epochs, options.eval_freq):
        return None
    try:
        metrics, evaluated = evaluate_split(run, state.model, data.val)
    except Exception as error:
        if run.stop.has_led_to(error):
            run.stop.agreed()  # the other processes are at the end of their first batch, where they ask for it
        raise
    with distributed.fail_together():
        if evaluated is not None:
            show_in_tensorboard(run.log, state.model, data.val, evaluated, state.epoch)
    return metrics


def evaluation_is_due(epoch: int, epochs: int, every: int) -> bool:
    """Whether an epoch is evaluated: each multiple of `every`, epoch 0 among them, and each of the last nine."""
    return epoch % every == 0 or epoch >= epochs - LAST_EPOCHS_EVALUATED


def record(
    run: Run, state: TrainingState, data: Data, lr: float, losses: dict[str, float], metrics: dict[str, float] | None
) -> None:
    """Keep an epoch's figures in metrics.jsonl and TensorBoard.

    Args:
        lr: the base learning rate.
        losses, metrics: what `train_epoch` and `evaluate_if_due` return.
    """
    epoch, left_out = state.epoch, {name: split.left_out for name, split in data.splits.items()}
    figures = {"epoch": epoch, "lr": lr, "classes": data.config.num_classes, "left_out": left_out, "train": losses}
    if metrics is not None:
        figures["val"] = metrics
        run.log.scalars("val", metrics, epoch)
    run.log.epoch(figures)
    run.log.scalars("train", losses, epoch)
    run.log.scalars("lr", {group["name"]: group["lr"] for group in state.optimizer.param_groups}, epoch)


def save(run: Run, state: TrainingState, data: Data, keep: int, is_best: bool = False) -> None:
    """Write a checkpoint; the main process does, for all. keep: as for `checkpoint.save`.

    Raises UserError, on all, where it cannot be written, and for weights that are not finite; those before stay then.
    """
    metric = MAIN_METRIC[data.config.metric]
    content = checkpoint.content_of(state, vars(run.options), len(data.train), data.lists(), metric)
    with distributed.fail_together():
        if distributed.is_main_process():
            checkpoint.check_finite(content)
            if is_best:
                checkpoint.save(content, run.log.folder / checkpoint.BEST)
            checkpoint.save(content, run.log.folder / checkpoint.LAST, keep)


def evaluate_checkpoint(run: Run, data: Data) -> None:
    """What `--evaluate` does: metrics of the validation split, or with `--set_ablation` those of all policies."""
    model, source = trained_model(run, data)
    with distributed.fail_together():
        run.log.open(f"log_{run.options.eval_suffix}.csv")
    if run.options.set_ablation:
        prepared = prepare_for_inference(model, run.options.eval_precision, run.options.compile)
        compare_policies(run, prepared, data.val, evaluation_batches(run, data.val), source)
        return
    forward = forward_of_policies(run.options)
    if forward is not None:
        run.log.line(f"Ablation: {run.options.patch_policy} patches, {run.options.frame_policy} frames")
    _, evaluated = evaluate_split(run, model, data.val, forward)
    with distributed.fail_together():
        if evaluated is not None and forward is None:  # these files describe the run's learned policies only
            write_files(run.log, data.val, evaluated, source)


def evaluate_split(
    run: Run, model: UniAdaFocus, dataset: VideoDataset, forward: engine.Forward | None = None
) -> tuple[dict[str, float], engine.Evaluated | None]:
    """Metrics of a split, printed; predictions are kept where `--save_predictions` says so.

    Returns what `engine.evaluate` does. Raises Stopped, on all processes, when a signal comes.
    """
    options = run.options
    metrics, evaluated = engine.evaluate(
        model,
        evaluation_batches(run, dataset),
        dataset.labels,
        dataset.config.metric,
        video_names=dataset.video_name,
        forward=forward or engine.usual_forward,
        precision=options.eval_precision,
        compiled=options.compile,
    )
    run.log.line("Testing Results: " + " ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    report_left_out_classes(run.log, dataset.config, dataset.labels)
    metrics["replaced_frames"] = report_replaced(dataset, run.log.line, "evaluation")
    report_precision(run, model, dataset)
    if options.save_predictions:
        with distributed.fail_together():
            if evaluated is not None:
                save_predictions(Path(options.save_predictions), dataset, evaluated.logits)
    return metrics, evaluated


def evaluation_batches(run: Run, dataset: VideoDataset, what: str = "Test") -> Iterator[Batch]:
    """This process's share of a split, each video once; the log says how far it is.

    Raises Stopped, on all processes, when a signal comes.
    """
    share = share_of_evaluation_batch(run.options)
    batches = EvaluationBatches(len(dataset), share, distributed.rank(), distributed.world_size())
    with open_loader(dataset, batches, run.options.workers, run.device) as loader:
        for step, batch in enumerate(run.log.progress(loader, what)):
            yield batch
            if step % run.options.print_freq == 0:
                run.log.line(f"{what}: [{step}/{len(batches)}]", progress=True)
            if step < batches.common_steps and (stop := run.stop.agreed()):
                raise Stopped(stop)


@distributed.fail_together()
def open_log(run: Run, state: TrainingState, main_metric: str) -> None:
    """Begin to write into the run's folder. A run that goes on from a checkpoint in there drops what it is about to do
    again; any other moves what an earlier run left there aside.

    Raises UserError, with nothing moved, where such another run has nothing to train.
    """
    folder, log, source = run.log.folder, run.log, state.resumed_from
    goes_on = source is not None and source.resolve().parent == folder.resolve()
    with distributed.fail_together():
        if not goes_on and state.epoch >= run.options.epochs:
            whence = f"{state.epoch} epochs are done in {source}" if source else f"--start_epoch is {state.epoch}"
            raise UserError(f"nothing to train: {whence}, and --epochs is {run.options.epochs}")
    log.open("log.csv", state.epoch, anew=not goes_on)
    log.options(vars(run.options))
    log.forget_epochs_from(state.epoch)
    if not goes_on and state.best is not None:  # its checkpoint is not in this folder, where the best is looked for
        log.line(f"The best {main_metric} so far, {state.best:.3f}, stays in {source.parent}; here it begins anew")
        state.best = None
    kept = checkpoint.best_in(folder, main_metric) if log.active else None
    if kept is not None and (state.best is None or kept.best > state.best or (kept.epoch or 0) > state.epoch):
        log.line(f"{checkpoint.BEST} has {main_metric} {kept.best:.3f} and stays until an evaluation is better")
        state.best = kept.best


def line_on_waiting(epoch: Averages) -> str:
    """What to change where an epoch's steps spent more than a tenth of their time waiting for frames; else ""."""
    if epoch.data_seconds <= 0.1 * epoch.step_seconds:  # both are 0 where no step was left
        return ""
    share = epoch.data_seconds / epoch.step_seconds
    advice = "raise --workers (one core each), or use faster disks"
    return f"warning: {share:.0%} of the time was spent waiting for frames: {advice}"


def training_line(place: str, line: Averages, epoch: Averages) -> str:
    """One console line in the published form: figures since the line before, in brackets their mean over the epoch."""
    text = (
        f"{place}\t"
        f"Time {line.step_seconds:.3f} ({epoch.step_seconds:.3f})\t"
        f"Data {line.data_seconds:.3f} ({epoch.data_seconds:.3f})"
    )
    for name, value in line.figures.items():
        digits = 3 if name.startswith("Acc_") else 4
        text += f"\t{PUBLISHED_LABELS.get(name, name)} {value:.{digits}f} ({epoch.figures[name]:.{digits}f})"
    return text
