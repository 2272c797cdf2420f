"""One training epoch and one evaluation. Both return plain numbers; printing, logging and saving are the runner's."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.uni_adafocus import Output, UniAdaFocus
from ops import distributed
from ops.errors import UserError
from ops.inference_network import prepare_for_inference
from ops.loss_history import LossHistory
from ops.losses import training_losses
from ops.metrics import evaluation_metrics, step_mean, training_accuracy


@dataclass(frozen=True)
class Progress:
    """Where an epoch stands when a line is due; times in seconds per step, losses averaged over all processes."""

    step: int
    steps: int
    step_time: float  # since the line before
    data_time: float  # of that, waiting for frames
    mean_step_time: float  # since the epoch began
    mean_data_time: float
    losses: dict[str, float]  # since the line before
    mean_losses: dict[str, float]  # since the epoch began


def train_one_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    device: torch.device,
    epoch: int,
    steps: int,
    seed: int,
    kl_ratio: float,
    norm_ratio: float,
    print_freq: int,
    report: Callable[[Progress], None],
    history: LossHistory,
    pieces: int = 1,
    first_step: int = 0,
    after_step: Callable[[int], None] = lambda step: None,
) -> dict[str, float]:
    """Train on every batch once; `report` hears of the first step, every `print_freq` steps and the last.

    steps: of a whole epoch; first_step: how many were done before (by a run that was interrupted), with their losses in
    `history`. after_step: called with the number of each finished step.

    model: a `UniAdaFocus`, or DistributedDataParallel around one. batches: (frames uint8 [b, T, 3, H, W],
    labels int64 [b, 3], indices int64 [b]) of this process; pieces: how many each is worked through in, equal ones.
    Losses stay on the device between reports.
    Returns the mean of each loss term and of each head's accuracy (`ops.metrics.TRAINING_ACCURACIES`, percent, with the
    learned policy's patches), and `videos_per_second` and `data_time` (seconds per step).
    Raises UserError when a loss is not finite, with the first such step, its terms and its videos.
    """
    model.train()
    batch_size, started, step_ended = 0, time.perf_counter(), time.perf_counter()
    data_seconds = line_data_seconds = 0.0
    line_started, line_step, step = started, first_step - 1, first_step - 1
    for step, (frames, labels, indices) in enumerate(batches, first_step):
        line_data_seconds += time.perf_counter() - step_ended
        batch_size = len(frames) * distributed.world_size()
        seed_step(seed, epoch, step)
        optimizer.zero_grad(set_to_none=True)
        losses = accumulate_gradients(
            model, frames, labels[:, 0], scaler, device=device, kl_ratio=kl_ratio, norm_ratio=norm_ratio, pieces=pieces
        )
        scaler.step(optimizer)
        scaler.update()
        history.append(losses, indices)
        if step % print_freq == 0 or step == steps - 1:
            line_losses = history.flush()  # waits for the device
            now = time.perf_counter()
            data_seconds += line_data_seconds
            line_steps = step - line_step
            report(
                Progress(
                    step,
                    steps,
                    (now - line_started) / line_steps,
                    line_data_seconds / line_steps,
                    (now - started) / (step + 1 - first_step),
                    data_seconds / (step + 1 - first_step),
                    line_losses,
                    history.means(),
                )
            )
            line_started, line_step, line_data_seconds = now, step, 0.0
        after_step(step)
        step_ended = time.perf_counter()
    seconds, steps_run = time.perf_counter() - started, max(1, step + 1 - first_step)
    speed = {"videos_per_second": steps_run * batch_size / seconds, "data_time": data_seconds / steps_run}
    return history.means() | speed


def accumulate_gradients(
    model: nn.Module,
    frames: Tensor,
    target: Tensor,
    scaler: torch.amp.GradScaler,
    *,
    device: torch.device,
    kl_ratio: float,
    norm_ratio: float,
    pieces: int = 1,
) -> dict[str, Tensor]:
    """Add the gradients of the mean loss over frames uint8 [b, T, 3, H, W] with target int64 [b], one of `pieces` equal
    parts of them after the other; the memory is that of one. Processes exchange gradients once, with the last.

    Returns the mean of each loss term and accuracy. Every one is a mean over videos, so what distinguishes the sum over
    the pieces from the whole are batch norms, which see one piece at a time.
    """
    parts = []
    for number, (some, their_target) in enumerate(zip(frames.chunk(pieces), target.chunk(pieces), strict=True), 1):
        keeps_to_itself = number < pieces and isinstance(model, DistributedDataParallel)
        with model.no_sync() if keeps_to_itself else contextlib.nullcontext():
            output = model(some.to(device, non_blocking=True))
            their_target = their_target.to(device, non_blocking=True)
            losses = training_losses(output, their_target, kl_ratio, norm_ratio)
            scaler.scale(losses["loss"] / pieces).backward()
        accuracies = training_accuracy(logits_by_head(output.policy), their_target)
        parts.append({name: term.detach() for name, term in (losses | accuracies).items()})
    return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}


def seed_step(seed: int, epoch: int, step: int) -> None:
    """Seed PyTorch for one training step of this process, so that a run can be repeated from any step."""
    state = np.random.SeedSequence((seed, epoch, step, distributed.rank())).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]) % 2**63)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation says of all N videos of a split, on the CPU."""

    logits: Tensor  # [N, C], after the last step
    actions: Tensor  # [N, G, 4], of the spatial policy in the glance frames
    frame_weights: Tensor  # [N, G], of the temporal policy


# Gives the output for frames [b, T, 3, H, W] and indices int64 [b], of a model that may be one prepared for inference.
Answer = Callable[[UniAdaFocus, Tensor, Tensor], Any]


def answer_of_model(model: UniAdaFocus, frames: Tensor, indices: Tensor) -> Output:
    """The usual `Answer`."""
    return model(frames)


@torch.inference_mode()
def evaluate(
    model: UniAdaFocus,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    *,
    device: torch.device,
    labels: Tensor,
    metric: str,
    video_names: Callable[[int], str],
    after_batch: Callable[[int], None] = lambda step: None,
    answer: Answer = answer_of_model,
    precision: str = "float32",
    compiled: bool = False,
) -> tuple[dict[str, float], Evaluated | None]:
    """Metrics of the whole split, each video counted once whatever the number of processes.

    The model goes into evaluation mode, and a copy, made by `prepare_for_inference`, is what runs.
    batches: this process's share, as in `train_one_epoch`; labels: int64 [N, 3] of the whole split, padded with -1.
    metric: "map" or "accuracy". precision, compiled: as for `prepare_for_inference`. Returns the named metrics with the
    `loss`, the mean cross-entropy over all steps (on every process), and what they come from (on the main process, else
    None). Raises UserError when an output is not finite.
    """
    model.eval()
    distributed.share_buffers(model)
    prepared = prepare_for_inference(model, precision, compiled)
    collected, indices = collect(prepared, batches, device, _evaluation_heads, after_batch, answer)
    # One at a time, so that no head is held twice.
    logits = {head: distributed.gather_rows(collected.pop(head), indices, len(labels)) for head in list(collected)}
    actions, weights, log_probabilities = (logits.pop(name) for name in ("actions", "weights", "log_probabilities"))
    metrics = evaluated = None
    with distributed.fail_together():
        if distributed.is_main_process():
            check_finite(logits, video_names)
            metrics = evaluation_metrics(logits, labels, metric)
            metrics["loss"] = float(F.nll_loss(log_probabilities, labels[:, 0]))
            evaluated = Evaluated(logits["pred"], actions, weights)
    return distributed.broadcast_object(metrics), evaluated


def check_finite(logits: Mapping[Any, Tensor], video_names: Callable[[int], str]) -> None:
    """Raise UserError where any of the logits [N, C] of N videos are not finite, with the first such video."""
    bad = torch.stack([~rows.isfinite().all(1) for rows in logits.values()]).any(0)
    if bad.any():
        raise UserError(
            f"the network's outputs are not finite for {int(bad.sum())} of {len(bad)} videos, first "
            f"{video_names(int(bad.nonzero()[0]))!r}: training has diverged (lower --lr), or the checkpoint is damaged"
        )


def collect(
    model: UniAdaFocus,
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    device: torch.device,
    heads: Callable[[Any], dict[Any, Tensor]],
    after_batch: Callable[[int], None] = lambda step: None,
    answer: Answer = answer_of_model,
) -> tuple[dict[Any, Tensor], Tensor]:
    """Run the model over this process's batches: each of `heads(output)` as a CPU tensor [n, ...], and the indices."""
    kept: list[dict[Any, Tensor]] = []
    seen: list[Tensor] = []
    for step, (frames, _, indices) in enumerate(batches):
        output = answer(model, frames.to(device, non_blocking=True), indices)
        kept.append({name: value.float().cpu() for name, value in heads(output).items()})
        seen.append(indices)
        after_batch(step)
    if not kept:
        return _no_rows(model, heads, device, answer), torch.empty(0, dtype=torch.int64)
    # One at a time: what is joined need not be held twice.
    return {name: torch.cat([part.pop(name) for part in kept]) for name in list(kept[0])}, torch.cat(seen)


def logits_by_head(output: Output) -> dict[str, Tensor]:
    """What each of `ops.metrics.HEADS` says of the videos, [B, C]: of heads that speak at every step, their mean."""
    return {
        "pred": output.logits,
        "cat": step_mean(output.step_logits),
        "global": step_mean(output.glance_logits),
        "local": step_mean(output.focus_logits),
        "temporal": output.temporal_logits,
        "spatial": output.spatial_logits,
    }


def _evaluation_heads(output: Output) -> dict[str, Tensor]:
    """What metrics and the loss come from, and what the policies chose."""
    return logits_by_head(output) | {
        "log_probabilities": output.step_logits.float().log_softmax(dim=-1).mean(dim=1),
        "actions": output.glance_actions,
        "weights": output.frame_weights,
    }


def _no_rows(
    model: UniAdaFocus,
    heads: Callable[[Any], dict[Any, Tensor]],
    device: torch.device,
    answer: Answer,
) -> dict[Any, Tensor]:
    """Empty results of the right shapes, for a process that has no video (fewer videos than processes)."""
    shape: Sequence[int] = (1, model.num_segments, 3, model.input_size, model.input_size)
    output = answer(model, torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64))
    return {name: value[:0].float().cpu() for name, value in heads(output).items()}
