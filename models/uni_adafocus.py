"""Uni-AdaFocus (arXiv 2412.11228): glance at all of a video cheaply, look closely only where it pays.

    model = UniAdaFocus(num_classes=200)
    output = model.eval()(frames)         # frames [B, 48, 3, 224, 224] uint8
    output.logits                         # [B, 200]

`UniAdaFocus.forward` is the whole method in four steps: glance, decide, focus, aggregate.
Letters in shapes: B videos, T all frames, G glance frames, F focus patches, C classes, D glance features,
P patch side, h = w = input_size / 32.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.aggregator import Aggregator
from models.backbones import STRIDE, build_focus_network, build_glance_network
from models.spatial_policy import (
    SpatialPolicy,
    actions_for_all_frames,
    base_action,
    cut_map_windows,
    cut_patches,
    smallest_side,
)
from models.temporal_policy import TemporalPolicy, expected_logits, sample_focus_frames

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EVALUATION_SEED = 0  # of the Monte-Carlo signal in evaluation, so that a video always gets the same figures


@dataclass(frozen=True)
class Glance:
    """What one look at the glance frames gives."""

    maps: Tensor  # [B, G, D, h, w]
    features: Tensor  # [B, G, D], the maps averaged over space
    logits: Tensor  # [B, G, C]


@dataclass(frozen=True)
class Decision:
    """Where to focus: which frames, and which patch of each."""

    frame_weights: Tensor  # [B, G], sums to 1 over G
    glance_actions: Tensor  # [B, G, 4]
    focus_indices: Tensor  # [B, F] int64, strictly increasing
    focus_actions: Tensor  # [B, F, 4], the actions of those frames; [B, F, n, 4] for n patches of each


@dataclass(frozen=True)
class Output:
    """What the network says of a batch of videos; logits are not normalised."""

    step_logits: Tensor  # [B, G + F, C], after each step
    glance_logits: Tensor  # [B, G, C], of each glance frame alone
    focus_logits: Tensor  # [B, F, C], of each patch alone
    temporal_logits: Tensor  # [B, C], the temporal policy's training signal
    spatial_logits: Tensor  # [B, C], the spatial policy's training signal
    frame_weights: Tensor  # [B, G]
    glance_actions: Tensor  # [B, G, 4], (y, x, height, width) in [0, 1]
    focus_indices: Tensor  # [B, F] int64 in 0 .. T-1, strictly increasing

    @property
    def logits(self) -> Tensor:
        """[B, C], after the last step."""
        return self.step_logits[:, -1]


@dataclass(frozen=True)
class TrainingOutput:
    """Two outputs that share the glance: with the patches that the policy chose, and with random ones."""

    policy: Output
    random: Output


class UniAdaFocus(nn.Module):
    """The network, with random weights; see the module's docstring and docs/PREDICT.md.

    Args:
        num_classes: C.
        num_segments, num_glance_segments, num_focus_segments: T, G and F, frames per video in all, glanced at, and
            looked at closely.
        patch_size: side P of the patches that the focus network sees, from 96 / 224 of input_size to input_size.
        input_size: side of the square frames, a multiple of 32.
        stn_hidden_dim, temporal_hidden_dim: widths of the spatial and of the temporal policy.
        temperature: of the softmax that focus frames are sampled from; higher is more even.
        dropout: before the heads of the steps.
        fc_dropout: before the heads of single frames and patches.
        glance_arch: "mbv2" (MobileNetV2, published) or "res50".

    Raises ValueError for sizes that do not go together.
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 48,
        num_glance_segments: int = 16,
        num_focus_segments: int = 16,
        patch_size: int = 128,
        input_size: int = 224,
        stn_hidden_dim: int = 128,
        temporal_hidden_dim: int = 64,
        temperature: float = 1.0,
        dropout: float = 0.2,
        fc_dropout: float = 0.2,
        glance_arch: str = "mbv2",
    ) -> None:
        super().__init__()
        _check_sizes(num_classes, num_segments, num_glance_segments, num_focus_segments, patch_size, input_size)
        self.num_classes, self.input_size, self.patch_size = num_classes, input_size, patch_size
        self.num_segments = num_segments
        self.num_glance_segments, self.num_focus_segments = num_glance_segments, num_focus_segments
        self.temperature, self.glance_arch = temperature, glance_arch
        self.keeps_batch_statistics = False
        self.half_dtype: torch.dtype | None = None  # of the parts that train in half precision; see `train_in_half`
        self.half_parts: set[nn.Module] = set()

        # Attribute names are those of published checkpoints.
        self.global_CNN = build_glance_network(glance_arch)
        glance_dim = self.global_CNN.feature_dim
        self.global_CNN_fc = nn.Sequential(nn.Dropout(fc_dropout), nn.Linear(glance_dim, num_classes))
        self.aux_fc = nn.Linear(glance_dim, num_classes)
        self.local_CNN = build_focus_network()
        focus_dim = self.local_CNN.feature_dim
        self.local_CNN_fc = nn.Sequential(nn.Dropout(fc_dropout), nn.Linear(focus_dim, num_classes))
        self.spatial_policy = SpatialPolicy(glance_dim, stn_hidden_dim, map_size=input_size // STRIDE)
        self.temporal_policy = TemporalPolicy(glance_dim, temporal_hidden_dim)
        self.classifier = Aggregator(
            glance_dim, focus_dim, num_glance_segments, num_focus_segments, num_classes, dropout
        )
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("pixel_scale", (1 / (255 * std)).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_shift", (mean / std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Output | TrainingOutput:
        """frames [B, T, 3, H, W] with H = W = input_size: uint8 RGB, or float32 already normalised.

        Returns an `Output`; in training mode a `TrainingOutput`, whose two branches share the glance.
        """
        self.check_frames(frames)
        glance = self.glance(frames)
        decision = self.decide(glance)
        if self.training:
            return self._forward_both_branches(frames, glance, decision)
        focus_features = self.focus(frames, decision)
        return self.aggregate(glance, decision, focus_features)

    def check_frames(self, frames: Tensor) -> None:
        """Raise ValueError for what `forward` does not take."""
        wanted = (self.num_segments, 3, self.input_size, self.input_size)
        if frames.dim() != 5 or frames.shape[1:] != wanted or not len(frames):
            raise ValueError(f"frames must be [B, {', '.join(map(str, wanted))}], not {list(frames.shape)}")
        if frames.dtype != torch.uint8 and not frames.is_floating_point():
            raise ValueError(f"frames must be uint8, or float32 already normalised, not {frames.dtype}")

    def _forward_both_branches(self, frames: Tensor, glance: Glance, decision: Decision) -> TrainingOutput:
        """Focus and aggregate twice: on the patches that the policy chose, and on random ones of the same frames."""
        actions = decision.focus_actions
        # One pass for both, so that batch norm in the focus network sees them together, as published.
        both = replace(decision, focus_actions=torch.stack([actions, self.random_actions(actions)], dim=2))
        policy_features, random_features = self.focus(frames, both).unbind(2)
        policy = self.aggregate(glance, decision, policy_features)
        # The policies' signals are of the glance alone, and the temporal one is drawn: one estimate serves both.
        random = replace(policy, **self.classify(glance, random_features))
        return TrainingOutput(policy, random)

    def glance(self, frames: Tensor) -> Glance:
        """Step 1: the cheap network looks at G whole frames of [B, T, 3, H, W]."""
        chosen = self.select_frames(frames, self.glance_indices(len(frames), frames.device))  # [B * G, 3, H, W]
        return self.glance_at(chosen, len(frames))

    def glance_at(self, glance_frames: Tensor, batch: int) -> Glance:
        """Step 1 for glance frames [B * G, 3, H, W] that were already picked out."""
        maps = self._run(self.global_CNN, glance_frames).unflatten(0, (batch, -1))  # [B, G, D, h, w]
        features = maps.mean(dim=(-2, -1))
        return Glance(maps, features, self._run(self.global_CNN_fc, features))

    def decide(self, glance: Glance) -> Decision:
        """Step 2: which frames to focus on, and where in each."""
        scores = self._run(self.temporal_policy, glance.features)
        offsets = torch.rand(len(scores), self.num_focus_segments, device=scores.device) if self.training else 0.5
        sampling_weights = (scores.detach() / self.temperature).softmax(dim=1)
        indices = sample_focus_frames(sampling_weights, self.num_segments, self.num_focus_segments, offsets)
        glance_actions = self._run(self.spatial_policy, glance.maps.detach())
        all_actions = actions_for_all_frames(glance_actions, self.num_segments)  # [B, T, 4]
        focus_actions = all_actions.gather(1, indices.unsqueeze(-1).expand(-1, -1, 4))
        return Decision(scores.softmax(dim=1), glance_actions, indices, focus_actions)

    def random_actions(self, actions: Tensor) -> Tensor:
        """Actions like those given, for patches of the base size at uniformly random places."""
        size = base_action(self.patch_size, self.input_size)
        return torch.cat([torch.rand_like(actions[..., :2]), torch.full_like(actions[..., 2:], size)], dim=-1)

    def focus(self, frames: Tensor, decision: Decision) -> Tensor:
        """Step 3: the strong network looks at F patches of [B, T, 3, H, W] -> features [B, F, 2048].

        With several actions per frame, [B, F, n, 4], the features are [B, F, n, 2048].
        """
        chosen = self.select_frames(frames, decision.focus_indices)  # [B * F, 3, H, W]
        return self.focus_on(chosen, decision.focus_actions)

    def focus_on(self, focus_frames: Tensor, actions: Tensor) -> Tensor:
        """Step 3 for frames [B * f, 3, H, W] that were already picked out; actions [B, f, 4] -> [B, f, 2048]."""
        with torch.no_grad():  # the focus network's loss does not train the spatial policy; see `spatial_signal`
            flat = actions.reshape(len(focus_frames), -1, 4).unbind(1)
            patches = [cut_patches(focus_frames, each, self.patch_size, self.input_size) for each in flat]
            patches = torch.stack(patches, dim=1).flatten(0, 1)  # [B * f * n, 3, P, P]
        maps = self._run(self.local_CNN, patches)
        return maps.mean(dim=(-2, -1)).view(*actions.shape[:-1], -1)

    def aggregate(self, glance: Glance, decision: Decision, focus_features: Tensor) -> Output:
        """Step 4: a prediction after every step, and the auxiliary predictions that train the parts."""
        return Output(
            **self.classify(glance, focus_features),
            glance_logits=glance.logits,
            temporal_logits=self.temporal_signal(glance, decision),
            spatial_logits=self.spatial_signal(glance, decision),
            frame_weights=decision.frame_weights,
            glance_actions=decision.glance_actions,
            focus_indices=decision.focus_indices,
        )

    def classify(self, glance: Glance, focus_features: Tensor) -> dict[str, Tensor]:
        """The fields of an `Output` that depend on the patches: after each step, and of each patch alone."""
        return {
            "step_logits": self._run(self.classifier, glance.features, focus_features),
            "focus_logits": self._run(self.local_CNN_fc, focus_features),
        }

    def temporal_signal(self, glance: Glance, decision: Decision) -> Tensor:
        """What trains the temporal policy (paper section 3.3): the weighted glance, [B, C]."""
        generator = None if self.training else torch.Generator().manual_seed(EVALUATION_SEED)
        return expected_logits(decision.frame_weights, glance.logits, generator)

    def spatial_signal(self, glance: Glance, decision: Decision) -> Tensor:
        """What trains the spatial policy (paper section 3.2): the patches cut out of the glance maps, [B, C]."""
        maps = glance.maps.detach().flatten(0, 1)  # [B * G, D, h, w]
        windows = cut_map_windows(maps, decision.glance_actions.flatten(0, 1), self.patch_size, self.input_size)
        features = windows.mean(dim=(-2, -1)).unflatten(0, glance.maps.shape[:2]).mean(1)  # [B, D]
        return self._run(self.aux_fc, features)

    def glance_indices(self, batch: int, device: torch.device) -> Tensor:
        """The glance frames, int64 [B, G]: a random one of each segment in training, a fixed one in evaluation."""
        length = self.num_segments // self.num_glance_segments
        starts = torch.arange(self.num_glance_segments, device=device) * length
        if self.training:
            return starts + torch.randint(length, (batch, self.num_glance_segments), device=device)
        return (starts + min(1, length - 1)).expand(batch, -1)

    def select_frames(self, frames: Tensor, indices: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] at int64 [B, n] -> [B * n, 3, H, W], float32 and normalised; the others stay as
        they are."""
        videos = torch.arange(len(frames), device=frames.device).unsqueeze(1)
        return self.normalise(frames[videos, indices].flatten(0, 1))

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> float32 with ImageNet's mean and deviation; floating point passes unchanged."""
        return frames * self.pixel_scale - self.pixel_shift if frames.dtype == torch.uint8 else frames

    def parameter_groups(
        self, temporal_lr_ratio: float, stn_lr_ratio: float, global_lr_ratio: float, classifier_lr_ratio: float
    ) -> list[dict]:
        """Optimizer groups in the published order, each with its `name` and its multiples of the learning rate and the
        weight decay, `lr_mult` and `decay_mult`.

        The unused ImageNet heads are in them, so that the optimizer state of published checkpoints fits.
        """
        parts: Iterable[tuple[str, nn.Module, float]] = (
            ("temporal_policy", self.temporal_policy, temporal_lr_ratio),
            ("spatial_policy", self.spatial_policy, stn_lr_ratio),
            ("global_CNN", self.global_CNN, global_lr_ratio),
            ("global_CNN_fc", self.global_CNN_fc, global_lr_ratio),
            ("aux_fc", self.aux_fc, global_lr_ratio),
            ("local_CNN", self.local_CNN, 1.0),
            ("local_CNN_fc", self.local_CNN_fc, 1.0),
            ("pooling_classifier", self.classifier, classifier_lr_ratio),
        )
        return [
            {"params": list(part.parameters()), "name": name, "lr_mult": ratio, "decay_mult": 1}
            for name, part, ratio in parts
        ]

    def backbones_to_channels_last(self) -> None:
        """Keep the backbones' weights, in place, in the memory layout in which they train faster.

        The numbers stay the same but for rounding. The spatial policy's five-dimensional maps have no such layout.
        """
        for backbone in (self.global_CNN, self.local_CNN):
            backbone.to(memory_format=torch.channels_last)

    def checkpoint_activations(self, wanted: bool = True) -> None:
        """Let the backbones compute their activations again in the backward pass; the numbers stay the same."""
        self.global_CNN.checkpoints_activations = self.local_CNN.checkpoints_activations = wanted

    def keep_batch_statistics(self, wanted: bool = True) -> None:
        """Freeze the running statistics of the backbones' batch norms, which normalise by them in training too.

        For fine-tuning on little data, or with few videos in a batch, whose own statistics say little.
        """
        self.keeps_batch_statistics = wanted

    def train(self, mode: bool = True) -> "UniAdaFocus":
        """As for any module, but for `keep_batch_statistics`."""
        super().train(mode)
        if mode and self.keeps_batch_statistics:
            for backbone in (self.global_CNN, self.local_CNN):
                for module in backbone.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def train_in_half(self, dtype: torch.dtype, scope: str) -> None:
        """Run parts of the network in half precision in training: the two "backbones" (published), or "all" layers.

        Weights, the outputs of each part and what is computed from them (sampling, patches, losses) stay float32; with
        "all", the policies' own layers run in half precision. Evaluation stays float32 too.
        """
        self.half_dtype = dtype
        self.half_parts = {self.global_CNN, self.local_CNN} if scope == "backbones" else set(self.children())

    def _run(self, part: nn.Module, *inputs: Tensor) -> Tensor:
        """part(*inputs), in half precision where `train_in_half` says so; the result is float32 again."""
        if self.half_dtype is None or not self.training or part not in self.half_parts:
            return part(*inputs)
        with torch.autocast(inputs[0].device.type, dtype=self.half_dtype):
            return part(*inputs).float()


def _check_sizes(num_classes: int, total: int, glance: int, focus: int, patch_size: int, input_size: int) -> None:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    if glance < 1 or total % glance:
        raise ValueError(f"num_segments ({total}) must be a multiple of num_glance_segments ({glance})")
    if not 1 <= focus <= total:
        raise ValueError(f"num_focus_segments ({focus}) must be from 1 to num_segments ({total})")
    if input_size < STRIDE or input_size % STRIDE:
        raise ValueError(f"input_size ({input_size}) must be a multiple of {STRIDE}")
    if not smallest_side(input_size) <= patch_size <= input_size:
        low = smallest_side(input_size)
        raise ValueError(f"patch_size ({patch_size}) must be from {low:.0f} to {input_size} for frames of {input_size}")
