"""The loss terms of one training step (paper section 3.5)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from models.uni_adafocus import Output, TrainingOutput

LOSS_NAMES = ("loss", "cat", "global", "local", "temporal", "spatial", "KL_div", "norm")


def training_losses(out: TrainingOutput, target: Tensor, kl_ratio: float, norm_ratio: float) -> dict[str, Tensor]:
    """All terms, as scalars under `LOSS_NAMES`; minimise "loss", the others are detached.

    target: int64 [B], the first label of each video. Every cross-entropy is that of the branch with the policy's
    patches plus that of the branch with random ones; for per-step heads the target is repeated over the steps.
    """
    branches = (out.policy, out.random)
    terms = {
        "cat": sum(_cross_entropy(branch.step_logits, target) for branch in branches),
        "global": sum(_cross_entropy(branch.glance_logits, target) for branch in branches),
        "local": sum(_cross_entropy(branch.focus_logits, target) for branch in branches),
        "temporal": sum(_cross_entropy(branch.temporal_logits, target) for branch in branches),
        "spatial": sum(_cross_entropy(branch.spatial_logits, target) for branch in branches),
    }
    regularisers = {"KL_div": divergence_from_uniform(out.policy), "norm": distance_from_full_size(out.policy)}
    loss = sum(terms.values()) / 2 + kl_ratio * regularisers["KL_div"] + norm_ratio * regularisers["norm"]
    return {"loss": loss} | {name: term.detach() for name, term in (terms | regularisers).items()}


def divergence_from_uniform(out: Output) -> Tensor:
    """Mean over videos of sum(w log(F w)), w the G frame weights and F the number of focus frames, as published.

    Where G = F it is the KL divergence of w from uniform weights; elsewhere log(F / G) is added to that, and the result
    may be negative.
    """
    weights = out.frame_weights
    log_weights = weights.clamp_min(torch.finfo(weights.dtype).tiny).log()
    num_focus = out.focus_indices.shape[1]
    return (weights * (log_weights + math.log(num_focus))).sum(1).mean()


def distance_from_full_size(out: Output) -> Tensor:
    """Mean of (size - 1)^2 over the height and width actions. With a weight above 0 small patches are penalised, with
    one below 0 large ones."""
    return (out.glance_actions[..., 2:] - 1).square().mean()


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of [B, C], or of [B, steps, C] with the target repeated over the steps."""
    steps = logits.shape[1] if logits.dim() == 3 else 1
    return F.cross_entropy(logits.flatten(0, -2), target.repeat_interleave(steps))
