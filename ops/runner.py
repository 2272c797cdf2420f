"""Runs the epochs: train, evaluate, log, save. The two main scripts differ in one argument of `run`."""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

import dataset_config
from models.uni_adafocus import UniAdaFocus
from ops import checkpoint, distributed, engine, faults
from ops.ablation import answer_of_policies, compare_policies
from ops.compilation import compile_backbones
from ops.data_check import check_only, check_splits
from ops.dataset import VideoDataset
from ops.errors import EXIT_DONE
from ops.evaluation_outputs import show_in_tensorboard, write_files
from ops.inference_network import prepare_for_inference
from ops.loaders import EvaluationBatches, build_loader
from ops.logger import RunLogger, set_earlier_run_aside
from ops.loss_history import LossHistory
from ops.optim import learning_rate, set_learning_rate
from ops.precision_comparison import PrecisionComparison
from ops.predictions import save_predictions
from ops.replaced_frames import report_replaced
from ops.setup import (
    Training,
    build_dataset,
    build_model,
    changed_options,
    check_speed_options,
    find_checkpoint,
    find_dataset,
    load_starting_weights,
    prepare_training,
    share_of_batch,
    share_of_evaluation_batch,
    wrap,
)
from ops.signals import Stopped, StopRequest
from ops.summary import print_summary
from ops.training_curves import draw_run

LAST_EPOCHS_EVALUATED = 9
PUBLISHED_LABELS = {"loss": "Loss", "Acc_pred@1": "Prec@1", "Acc_pred@5": "Prec@5"}  # of console lines
MAIN_METRIC = {"map": "mAP", "accuracy": "Acc_pred@1"}


def run(options: argparse.Namespace, mixed_precision: bool) -> int:
    """Train, or with `--evaluate` evaluate, as the options say. Returns the exit code; wrong input is a UserError."""
    split_names = ("val",) if options.evaluate else ("train", "val")
    if options.summary:
        return print_summary(options)
    if options.check_data:
        return check_only(options, split_names)
    with distributed.process_group(options.time_limit) as device, StopRequest() as stop_request:
        with distributed.fail_together():
            config = find_dataset(options)
            splits = {name: build_dataset(options, config, name, training=name == "train") for name in split_names}
            validation = splits["val"]
            share_of_batch(options)
            share_of_evaluation_batch(options)
            check_speed_options(options, device)
            resumed, notes = find_checkpoint(options, run_folder(options))
        notes = check_splits(splits, options.skip_missing) + notes
        with distributed.fail_together():
            model = build_model(options, config.num_classes)
            if resumed is None:
                notes += load_starting_weights(model, options)
            else:
                checkpoint.load_model(model, resumed["state_dict"], Path(options.resume))
                notes += [f"weights of {options.resume}"]
            model.to(device)
            training = None
            if not options.evaluate:
                training = prepare_training(model, splits["train"], options, mixed_precision, device, resumed)
                if options.compile:
                    compile_backbones(model)
                notes += [
                    f"warning: not as in the checkpoint: {change}" for change in changed_options(resumed or {}, options)
                ]
            logger = start_log(options, training)
        say_how_it_starts(logger, options, config, model, notes, device)
        try:
            with faults.explained(options):
                if options.set_ablation:
                    loader, after_batch = evaluation_batches(validation, options, device, logger, stop_request)
                    prepared = prepare_for_inference(model.eval(), options.eval_precision, options.compile)
                    compare_policies(prepared, validation, options.seed, loader, after_batch, device, logger)
                elif training is None:
                    evaluate_and_report(model, validation, options, device, logger, stop_request)
                else:
                    train(model, training, validation, options, device, logger, stop_request)
        except Stopped as stopped:
            logger.line(str(stopped))
            return stopped.exit_code
        finally:
            logger.close()
    return EXIT_DONE


def train(
    model: UniAdaFocus,
    training: Training,
    validation: VideoDataset,
    options: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
    stop_request: StopRequest,
) -> None:
    """All epochs: train, evaluate when due, log, save. Raises Stopped, after saving, when a signal comes."""
    loader = build_loader(training.dataset, training.batches, options.workers, device)
    network = wrap(model, device)
    main_metric = MAIN_METRIC[validation.config.metric]
    steps = len(training.batches)

    for epoch in range(training.first_epoch, options.epochs):
        lr = learning_rate(epoch, options.epochs, options.lr, options.lr_type, options.lr_steps)
        set_learning_rate(training.optimizer, lr)
        first_step = training.first_step if epoch == training.first_epoch else 0
        history = LossHistory(epoch, training.dataset.video_name, training.losses if first_step else None)
        training.batches.set_epoch(epoch, first_step)
        training.dataset.set_epoch(epoch)

        def after_step(step: int, epoch: int = epoch, history: LossHistory = history) -> None:
            stop = stop_request.agreed()
            if stop or (options.save_freq and (step + 1) % options.save_freq == 0):
                save(model, training, options, logger.folder, epoch=epoch, step=step + 1, losses=history.totals())
            if stop:
                raise Stopped(stop)

        losses = engine.train_one_epoch(
            network,
            logger.progress(loader, f"epoch {epoch}"),
            training.optimizer,
            training.scaler,
            device=device,
            epoch=epoch,
            steps=steps,
            seed=options.seed,
            kl_ratio=options.KL_ratio,
            norm_ratio=options.norm_ratio,
            print_freq=options.print_freq,
            report=lambda progress, epoch=epoch, lr=lr: logger.line(training_line(epoch, lr, progress), progress=True),
            history=history,
            pieces=options.grad_accum,
            first_step=first_step,
            after_step=after_step,
        )
        losses["replaced_frames"] = report_replaced(training.dataset, logger.line, f"epoch {epoch}")
        left_out = {"train": training.dataset.left_out, "val": validation.left_out}
        record = {"epoch": epoch, "lr": lr, "left_out": left_out, "train": losses}
        is_best = False
        if evaluation_is_due(epoch, options.epochs, options.eval_freq):
            try:
                metrics = evaluate_and_report(model, validation, options, device, logger, stop_request, epoch)
            except Stopped:
                save(model, training, options, logger.folder, epoch=epoch, step=steps, losses=history.totals())
                raise
            record["val"] = metrics
            is_best = training.best is None or metrics[main_metric] > training.best
            training.best = metrics[main_metric] if is_best else training.best
            logger.line(f"Best {main_metric}: {training.best:.3f}")
            logger.scalars("val", metrics, epoch)
        logger.epoch(record)
        logger.scalars("train", losses, epoch)
        logger.scalars("lr", {group["name"]: group["lr"] for group in training.optimizer.param_groups}, epoch)
        save(model, training, options, logger.folder, epoch=epoch + 1, is_best=is_best)
    with distributed.fail_together():
        if distributed.is_main_process():
            draw_run(logger.folder)
    logger.line(f"Done: best {main_metric} {training.best or 0:.3f}; logs and checkpoints in {logger.folder}")


def save(
    model: UniAdaFocus,
    training: Training,
    options: argparse.Namespace,
    folder: Path,
    *,
    epoch: int,
    step: int = 0,
    losses: checkpoint.LossTotals | None = None,
    is_best: bool = False,
) -> None:
    """Write a checkpoint after `epoch` epochs and `step` steps of the next; the main process does, for all."""
    random_states = distributed.gather_objects(torch.get_rng_state())
    with distributed.fail_together():
        if distributed.is_main_process():
            state = checkpoint.checkpoint_dict(
                epoch=epoch,
                step=step,
                losses=losses,
                model=model,
                optimizer=training.optimizer,
                best=training.best,
                scaler=training.scaler,
                options=vars(options),
                videos=len(training.dataset),
                random_states=random_states,
            )
            if is_best:
                checkpoint.save(state, folder / checkpoint.BEST)
            checkpoint.save(state, folder / checkpoint.LAST, keep=options.keep)


def evaluation_is_due(epoch: int, epochs: int, every: int) -> bool:
    """In every so-manieth epoch from the first (0) on, and in each of the last nine."""
    return epoch % every == 0 or epoch >= epochs - LAST_EPOCHS_EVALUATED


def evaluate_and_report(
    model: UniAdaFocus,
    dataset: VideoDataset,
    options: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
    stop_request: StopRequest,
    epoch: int | None = None,
) -> dict[str, float]:
    """Metrics of the validation split, printed and logged; predictions are kept where `--save_predictions` says so.

    epoch: of the training that is going on, for which TensorBoard gets more; without, that goes to files.
    Raises Stopped, on all processes, when a signal comes.
    """
    loader, after_batch = evaluation_batches(dataset, options, device, logger, stop_request)
    other_policies = answer_of_policies(options, logger)
    comparison = PrecisionComparison(model, options.eval_precision, options.compile, device)
    metrics, evaluated = engine.evaluate(
        model,
        comparison.watch(loader),
        device=device,
        labels=dataset.labels,
        metric=dataset.config.metric,
        video_names=dataset.video_name,
        after_batch=after_batch,
        answer=other_policies or engine.answer_of_model,
        precision=options.eval_precision,
        compiled=options.compile,
    )
    if summary := comparison.summary(dataset.labels, dataset.config.metric):
        logger.line(summary)
    logger.line("Testing Results: " + " ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
    metrics["replaced_frames"] = report_replaced(dataset, logger.line, "evaluation")
    if options.save_predictions:
        with distributed.fail_together():
            if evaluated is not None:
                save_predictions(Path(options.save_predictions), dataset, evaluated.logits)
    with distributed.fail_together():
        if evaluated is not None and epoch is not None:
            show_in_tensorboard(logger, model, dataset, evaluated, epoch)
        elif evaluated is not None and other_policies is None:  # the run's files speak of its own policies
            write_files(logger, dataset, evaluated, options)
    return metrics


def evaluation_batches(
    dataset: VideoDataset,
    options: argparse.Namespace,
    device: torch.device,
    logger: RunLogger,
    stop_request: StopRequest,
) -> tuple[Iterable, Callable[[int], None]]:
    """This process's share of the split, each video once, and what to call with each batch's number when it is done.

    The latter reports progress, and raises Stopped, on all processes, when a signal comes.
    """
    batches = EvaluationBatches(
        len(dataset), share_of_evaluation_batch(options), distributed.rank(), distributed.world_size()
    )
    loader = build_loader(dataset, batches, options.workers, device)

    def after_batch(step: int) -> None:
        if step % options.print_freq == 0:
            logger.line(f"Test: [{step}/{len(batches)}]", progress=True)
        if step < batches.common_steps and (stop := stop_request.agreed()):
            raise Stopped(stop)

    return logger.progress(loader, "evaluation"), after_batch


def run_folder(options: argparse.Namespace) -> Path:
    """Where this run's logs and checkpoints go; the published name."""
    name = f"UniAdaFocus_{options.dataset}_{options.glance_arch}_segment{options.num_segments}_e{options.epochs}"
    return Path(options.root_log) / name


def log_name(options: argparse.Namespace, training: bool) -> str:
    """The file of the console lines; the published names."""
    return "log.csv" if training else f"log_{options.eval_suffix}.csv"


def start_log(options: argparse.Namespace, training: Training | None) -> RunLogger:
    """The run's logger. A run from the start moves what an earlier one left in the folder aside; one that goes on
    drops what it is about to do again."""
    folder, active = run_folder(options), distributed.is_main_process()
    aside = set_earlier_run_aside(folder) if active and training and not options.resume else None
    first_epoch = training.first_epoch if training else 0
    logger = RunLogger(folder, active, first_epoch, log_name(options, training is not None))
    if aside:
        logger.line(f"An earlier run's files are now in {aside}")
    if training:
        logger.options(vars(options))
        logger.forget_epochs_from(first_epoch)
        if active:
            checkpoint.remove_leftovers(folder)
            known = (training.best, checkpoint.best_metric(folder))
            training.best = max((value for value in known if value is not None), default=None)
    return logger


def say_how_it_starts(
    logger: RunLogger,
    options: argparse.Namespace,
    config: dataset_config.DatasetConfig,
    model: UniAdaFocus,
    notes: list[str],
    device: torch.device,
) -> None:
    """A few lines on what is about to run."""
    if options.ignored:
        logger.line(f"Without effect, as in the published code: {' '.join(options.ignored)}")
    logger.line(
        f"{config.name}: {config.num_classes} classes, metric {config.metric}, frames {config.frames_root}/*/"
        f"{config.template}; {distributed.world_size()} process(es) on {device.type}, batch {options.batch_size}"
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.line(f"{parameters / 1e6:.1f} M parameters")
    for note in notes:
        logger.line(note)


def training_line(epoch: int, lr: float, progress: engine.Progress) -> str:
    """One console line in the published form: figures since the line before, in brackets their mean over the epoch."""
    line = (
        f"Epoch: [{epoch}][{progress.step}/{progress.steps}], lr: {lr:.5f}\t"
        f"Time {progress.step_time:.3f} ({progress.mean_step_time:.3f})\t"
        f"Data {progress.data_time:.3f} ({progress.mean_data_time:.3f})"
    )
    for name, value in progress.losses.items():
        digits = 3 if name.startswith("Acc_") else 4
        label = PUBLISHED_LABELS.get(name, name)
        line += f"\t{label} {value:.{digits}f} ({progress.mean_losses[name]:.{digits}f})"
    return line
