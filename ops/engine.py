"""The steps of a training epoch, and an evaluation. Both give plain numbers; printing, logging and saving are the
runner's."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.uni_adafocus import Output, UniAdaFocus
from ops.inference import prepare_for_inference
from ops.losses import training_losses
from ops.metrics import evaluation_metrics, step_mean, training_accuracy
from ops.utils import distributed
from ops.utils.errors import UserError

Batch = tuple[Tensor, Tensor, Tensor]  # frames uint8 [b, T, 3, H, W], labels int64 [b, 3], indices int64 [b]


@dataclass
class TrainingState:
    """What training changes; a checkpoint keeps it."""

    model: UniAdaFocus
    network: nn.Module  # the model, or DistributedDataParallel around it
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0  # that is going on, from 0
    step: int = 0  # how many of its steps are done
    losses: tuple[list[float], int] | None = None  # `LossHistory.totals` of these steps
    replaced: dict[int, int] = field(default_factory=dict)  # frames replaced in these steps, by the video's row
    best: float | None = None  # the best main metric so far, percent; None before the first evaluation
    resumed_from: Path | None = None  # the checkpoint that it goes on from


@dataclass(frozen=True)
class Step:
    """One training step that was made."""

    figures: dict[str, Tensor]  # `ops.loss_history.NAMES`, scalars on the device
    videos: Tensor  # int64 [b], of this process
    data_seconds: float  # waited for the frames


def train_steps(
    state: TrainingState, batches: Iterable[Batch], *, seed: int, kl_ratio: float, norm_ratio: float, pieces: int = 1
) -> Iterator[Step]:
    """Train on every batch of this process, and yield after each step, with `state.step` counted up.

    Args:
        batches: of this process.
        seed: each step draws from (seed, epoch, step, process).
        kl_ratio, norm_ratio, pieces: as for `accumulate_gradients`.
    """
    state.network.train()
    waiting_since = time.perf_counter()
    for frames, labels, videos in batches:
        data_seconds = time.perf_counter() - waiting_since
        seed_step(seed, state.epoch, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        figures = accumulate_gradients(
            state.network, frames, labels[:, 0], state.scaler, kl_ratio=kl_ratio, norm_ratio=norm_ratio, pieces=pieces
        )
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.step += 1
        yield Step(figures, videos, data_seconds)
        waiting_since = time.perf_counter()


def accumulate_gradients(
    network: nn.Module,
    frames: Tensor,
    target: Tensor,
    scaler: torch.amp.GradScaler,
    *,
    kl_ratio: float,
    norm_ratio: float,
    pieces: int = 1,
) -> dict[str, Tensor]:
    """Add the gradients of the mean loss over a batch, one of `pieces` equal parts of it after the other; the memory is
    that of one. Processes exchange gradients once, with the last.

    Args:
        network: a `UniAdaFocus` in training mode, or DistributedDataParallel around one.
        frames: uint8 [b, T, 3, H, W], on any device.
        target: int64 [b], the first label of each video.
        scaler: scales the loss.
        kl_ratio, norm_ratio: weights of the loss terms, as for `training_losses`.
        pieces: divides b.

    Returns the mean of each loss term and of each head's accuracy, with the learned policy's patches. Every one is a
    mean over videos, so what distinguishes the sum over the pieces from the whole are batch norms, which see one piece
    at a time.
    """
    device = next(network.parameters()).device
    parts = []
    for number, (some, their_target) in enumerate(zip(frames.chunk(pieces), target.chunk(pieces), strict=True), 1):
        keeps_to_itself = number < pieces and isinstance(network, DistributedDataParallel)
        with network.no_sync() if keeps_to_itself else contextlib.nullcontext():
            output = network(some.to(device, non_blocking=True))
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


# (model or prepared copy, frames [b, T, 3, H, W], indices int64 [b]) -> what `heads` of `collect` takes.
Forward = Callable[[UniAdaFocus, Tensor, Tensor], Any]


def usual_forward(model: UniAdaFocus, frames: Tensor, indices: Tensor) -> Output:
    """The network's own choices of frames and patches."""
    return model(frames)


@torch.inference_mode()
def evaluate(
    model: UniAdaFocus,
    batches: Iterable[Batch],
    labels: Tensor,
    metric: str,
    *,
    video_names: Callable[[int], str],
    forward: Forward = usual_forward,
    precision: str = "float32",
    compiled: bool = False,
) -> tuple[dict[str, float], Evaluated | None]:
    """Metrics of the whole split, each video counted once whatever the number of processes.

    The model goes into evaluation mode, and a copy, made by `prepare_for_inference`, is what runs.

    Args:
        batches: this process's share of the split.
        labels: int64 [N, 3] of the whole split, padded with -1.
        metric: "map" or "accuracy".
        video_names: of the whole split, by index.
        forward: other choices than the network's own, as `ops.ablation` makes.
        precision, compiled: as for `prepare_for_inference`.

    Returns the named metrics with the `loss`, the mean cross-entropy over all steps (on every process), and what they
    come from (on the main process, else None). Raises UserError when an output is not finite.
    """
    model.eval()
    distributed.share_buffers(model)
    prepared = prepare_for_inference(model, precision, compiled)
    collected, indices = collect(prepared, batches, _evaluation_heads, forward)
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
    batches: Iterable[Batch],
    heads: Callable[[Any], dict[Any, Tensor]],
    forward: Forward = usual_forward,
) -> tuple[dict[Any, Tensor], Tensor]:
    """Run the model over this process's batches: each of `heads(output)` as a tensor [n, ...] on the model's device,
    which is not waited for between batches, and the indices."""
    device = model.pixel_scale.device
    kept: list[dict[Any, Tensor]] = []
    seen: list[Tensor] = []
    for frames, _, indices in batches:
        output = forward(model, frames.to(device, non_blocking=True), indices)
        kept.append({name: value.float() for name, value in heads(output).items()})
        seen.append(indices)
    if not kept:  # fewer videos than processes: results of the right shapes without a row
        shape = (1, model.num_segments, 3, model.input_size, model.input_size)
        output = forward(model, torch.zeros(shape, dtype=torch.uint8, device=device), torch.zeros(1, dtype=torch.int64))
        empty = {name: value[:0].float() for name, value in heads(output).items()}
        return empty, torch.empty(0, dtype=torch.int64)
    # One at a time: what is joined need not be held twice.
    return {name: torch.cat([part.pop(name) for part in kept]) for name in list(kept[0])}, torch.cat(seen)


def logits_by_head(output: Output) -> dict[str, Tensor]:
    """What each of `ops.metrics.HEADS` says of the videos, [B, C]: for per-step heads, the mean over the steps."""
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
