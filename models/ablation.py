"""Other choices in place of the learned ones: the baselines that show whether the policies help.

    outputs = outputs_of_policies(model.eval(), frames, videos, [Policies(), Policies(patches="random")])

As in the paper's ablations (arXiv 2412.11228), patches lie at random places or in the centre, with the base size, and
frames are spread evenly or drawn at random. The focus network sees as many patches of as many pixels whatever the
choice, so that all cost the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.spatial_policy import actions_for_all_frames, base_action
from models.uni_adafocus import Decision, Output, UniAdaFocus

PATCH_POLICIES = ("learned", "random", "center")
FRAME_POLICIES = ("learned", "uniform", "random")


@dataclass(frozen=True)
class Policies:
    """Who chooses the patches and the frames. seed, draw: what random choices depend on, beside the video's number.

    Raises ValueError for a policy that is not in `PATCH_POLICIES` or `FRAME_POLICIES`.
    """

    patches: str = "learned"
    frames: str = "learned"
    seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        for policy, known in ((self.patches, PATCH_POLICIES), (self.frames, FRAME_POLICIES)):
            if policy not in known:
                raise ValueError(f"unknown policy {policy!r}: choose from {', '.join(known)}")

    @property
    def are_random(self) -> bool:
        """Whether the choices differ between draws."""
        return "random" in (self.patches, self.frames)


def outputs_of_policies(
    model: UniAdaFocus, frames: Tensor, videos: Tensor, choices: Sequence[Policies]
) -> list[Output]:
    """What the model says under each of the policies; it glances once for all of them.

    frames: [B, T, 3, H, W] as for `model`; videos: int64 [B], the number of each, which random choices depend on. With
    `Policies()` an output is that of `model(frames)`, bit for bit. Raises ValueError for a model in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    glance = model.glance(frames)
    learned = model.decide(glance)
    outputs = []
    for policies in choices:
        decision = decide_otherwise(model, learned, videos, policies)
        outputs.append(model.aggregate(glance, decision, model.focus(frames, decision)))
    return outputs


def decide_otherwise(model: UniAdaFocus, learned: Decision, videos: Tensor, policies: Policies) -> Decision:
    """The decision with other frames or patches; what the policies themselves put out stays in it.

    learned: of B videos with the numbers `videos`, int64 [B]. Random choices depend on the policies' seed and draw and
    on a video's number alone. Of both the same draw gives the same, whichever the other policy is.
    """
    indices = learned.focus_indices
    if policies.frames == "uniform":
        indices = uniform_frames(model.num_segments, model.num_focus_segments).to(indices.device).expand_as(indices)
    elif policies.frames == "random":
        drawn = _drawn(videos, policies, "frames", lambda generator: generator.permutation(model.num_segments))
        indices = drawn[:, : model.num_focus_segments].sort(dim=1).values.to(indices.device)
    if policies.patches == "learned":
        actions = actions_for_all_frames(learned.glance_actions, model.num_segments)  # [B, T, 4]
    else:
        actions = _fixed_actions(model, videos, policies).to(learned.glance_actions)
    focus_actions = actions.gather(1, indices.unsqueeze(-1).expand(-1, -1, 4))
    return replace(learned, focus_indices=indices, focus_actions=focus_actions)


def uniform_frames(num_segments: int, num_focus_segments: int) -> Tensor:
    """The middles of F equal parts of the T frames: int64 [F]."""
    return (2 * torch.arange(num_focus_segments) + 1) * num_segments // (2 * num_focus_segments)


def _fixed_actions(model: UniAdaFocus, videos: Tensor, policies: Policies) -> Tensor:
    """Patches of the base size for every frame, in the centre or at uniformly random places: float64 [B, T, 4]."""
    if policies.patches == "random":
        places = _drawn(videos, policies, "patches", lambda generator: generator.random((model.num_segments, 2)))
    else:
        places = torch.full((len(videos), model.num_segments, 2), 0.5, dtype=torch.float64)
    return torch.cat([places, torch.full_like(places, base_action(model.patch_size, model.input_size))], dim=-1)


def _drawn(videos: Tensor, policies: Policies, what: str, draw: Callable[[np.random.Generator], np.ndarray]) -> Tensor:
    """What `draw` gives for each video, [B, ...], from a generator of its own: batches and processes do not matter."""
    stream = ("frames", "patches").index(what)
    generators = (np.random.default_rng((policies.seed, policies.draw, stream, video)) for video in videos.tolist())
    return torch.from_numpy(np.stack([draw(generator) for generator in generators]))
