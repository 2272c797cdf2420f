"""SGD with a multiple of the learning rate for each part of the network, and the two published schedules."""

import math
from collections.abc import Sequence

import torch

from models.uni_adafocus import UniAdaFocus


def build_optimizer(
    model: UniAdaFocus,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    temporal_lr_ratio: float,
    stn_lr_ratio: float,
    global_lr_ratio: float,
    classifier_lr_ratio: float,
    fused: bool = True,
) -> torch.optim.SGD:
    """SGD over `model.parameter_groups`; each group keeps its `name` and multiples. Momentum starts from zero.

    Args:
        lr, momentum, weight_decay: of SGD.
        *_lr_ratio: the part's multiple of lr, as for `UniAdaFocus.parameter_groups`. With 0 a part is frozen: its
            gradients are not computed.
        fused: one kernel for many parameters, not a loop over them.

    Fused SGD would make the momentum in its first step from uninitialised memory, which stays as it is where gradient
    scaling skips that step (float16 overflows in the first steps), and enters the weights with the next.
    """
    groups = model.parameter_groups(temporal_lr_ratio, stn_lr_ratio, global_lr_ratio, classifier_lr_ratio)
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused, foreach=False)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["lr_mult"] == 0:
                parameter.requires_grad_(False)
            if parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    set_learning_rate(optimizer, lr)
    return optimizer


def learning_rate(epoch: int, epochs: int, lr: float, lr_type: str, lr_steps: Sequence[float]) -> float:
    """The base rate of an epoch (from 0). "cos" falls from lr towards 0; "step" is lr x 0.1 for each step reached."""
    if lr_type == "cos":
        return 0.5 * lr * (1 + math.cos(math.pi * epoch / epochs))
    if lr_type == "step":
        return lr * 0.1 ** sum(epoch >= step for step in lr_steps)
    raise ValueError(f"unknown lr_type {lr_type!r}: cos or step")


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its multiple of the base rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_mult"]
