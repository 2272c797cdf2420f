"""The published implementation's costs, rebuilt on our modules: what our speed is measured against.

As the published code is written, clips arrive in float32, normalised by the loader, and move as such; everything is
NCHW; the spatial policy and the step-by-step classifier run once for each training branch; the Monte-Carlo signal holds
the glance logits 128 times for each number of frames taken out; SGD updates one tensor after the other; every loss term
is read back in every step; evaluation computes everything, with its batch norms as they are. With several processes
DistributedDataParallel would look for unused parameters, too (`find_unused_parameters=True`); here there is one.
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.temporal_policy import MONTE_CARLO_DRAWS
from models.uni_adafocus import EVALUATION_SEED, Decision, Glance, Output, TrainingOutput, UniAdaFocus
from ops.losses import training_losses
from ops.optim import build_optimizer

RATES = {"temporal_lr_ratio": 0.2, "stn_lr_ratio": 0.2, "global_lr_ratio": 0.5, "classifier_lr_ratio": 20.0}
SGD = {"lr": 0.002, "momentum": 0.9, "weight_decay": 2e-4}
LOSSES = {"kl_ratio": 0.0, "norm_ratio": 1.0}


def baseline_model(model: UniAdaFocus) -> UniAdaFocus:
    """A copy of the model as the yardstick has it: NCHW, a spatial policy that runs twice."""
    published = copy.deepcopy(model)
    for parameter in published.parameters():
        parameter.data = parameter.data.contiguous()
    for module in published.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.momentum = 0.1
    return published


def baseline_clips(model: UniAdaFocus, frames: Tensor) -> Tensor:
    """What the published loader delivers for uint8 [B, T, 3, H, W]: float32, normalised, contiguous."""
    return torch.stack([model.normalise(clip.to(model.pixel_scale.device)).cpu().contiguous() for clip in frames])


def baseline_optimizer(model: UniAdaFocus) -> torch.optim.SGD:
    """SGD as `ops.optim.build_optimizer` makes it, but with a loop over the tensors."""
    return build_optimizer(model, **SGD, **RATES, fused=False)


def baseline_forward(model: UniAdaFocus, clips: Tensor) -> Output | TrainingOutput:
    """The outputs of `model(clips)` at the published costs. clips: float32 [B, T, 3, H, W], normalised."""
    glance = model.glance(clips)
    decision = model.decide(glance)
    if not model.training:
        return _baseline_output(model, glance, decision, model.focus(clips, decision))
    actions = decision.focus_actions
    both = replace(decision, focus_actions=torch.stack([actions, model.random_actions(actions)], dim=2))
    policy_features, random_features = model.focus(clips, both).unbind(2)
    again = model._run(model.spatial_policy, glance.maps.detach())  # once more, for the spatial signal
    policy = _baseline_output(model, glance, replace(decision, glance_actions=again), policy_features)
    return TrainingOutput(policy, replace(policy, **model.classify(glance, random_features)))


def _baseline_output(model: UniAdaFocus, glance: Glance, decision: Decision, focus_features: Tensor) -> Output:
    return Output(
        **model.classify(glance, focus_features),
        glance_logits=glance.logits,
        temporal_logits=baseline_temporal_signal(decision.frame_weights, glance.logits, model.training),
        spatial_logits=model.spatial_signal(glance, decision),
        frame_weights=decision.frame_weights,
        glance_actions=decision.glance_actions,
        focus_indices=decision.focus_indices,
    )


def baseline_temporal_signal(frame_weights: Tensor, glance_logits: Tensor, training: bool) -> Tensor:
    """`models.temporal_policy.expected_logits` with every draw's logits held in memory: [B, 128, G, C] for each i."""
    batch, num_glance = frame_weights.shape
    removals = max(1, num_glance // 3)
    device = frame_weights.device
    shape = (batch if training else 1, removals, MONTE_CARLO_DRAWS, num_glance)
    if training:
        uniform = torch.rand(shape, device=device)
    else:
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(EVALUATION_SEED)).to(device)
    uniform = uniform.clamp_min(1e-20).expand(batch, -1, -1, -1)
    total = torch.zeros_like(glance_logits[:, 0])
    for removed in range(removals):
        weights = frame_weights.unsqueeze(1).repeat(1, MONTE_CARLO_DRAWS, 1)  # [B, 128, G]
        logits = glance_logits.unsqueeze(1).repeat(1, MONTE_CARLO_DRAWS, 1, 1)  # [B, 128, G, C]
        with torch.no_grad():
            order = ((-uniform[:, removed].log()).log() - weights.log()).argsort(dim=-1)
            stays = torch.ones_like(weights).scatter_(2, order[:, :, :removed], 0.0)
            left = (weights * stays).sum(2, keepdim=True)
        weights = weights * stays / left.clamp_min(1e-30)
        total = total + (weights.unsqueeze(-1) * logits).sum(2).mean(1)
    return total / removals


def baseline_training_step(
    model: nn.Module,
    clips: Tensor,
    target: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> dict[str, float]:
    """One update at the published costs; the loss terms, read back. clips: as from `baseline_clips`; target: [B]."""
    output = baseline_forward(model, clips.to(device, non_blocking=True))
    losses = training_losses(output, target.to(device, non_blocking=True), **LOSSES)
    values = {name: term.item() for name, term in losses.items()}
    optimizer.zero_grad()
    scaler.scale(losses["loss"]).backward()
    scaler.step(optimizer)
    scaler.update()
    return values


@torch.no_grad()
def baseline_evaluation(model: UniAdaFocus, clips: Tensor, device: torch.device) -> Output:
    """The outputs of a model in evaluation mode at the published costs; clips: as from `baseline_clips`."""
    return baseline_forward(model, clips.to(device, non_blocking=True))
