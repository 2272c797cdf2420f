"""Which frames to look at, and the signal that trains that choice (paper section 3.3, temporal dynamic computation)."""

import torch
from torch import Tensor, nn

MONTE_CARLO_DRAWS = 128


class TemporalPolicy(nn.Module):
    """Pooled glance features of a video -> one unnormalised score per glance frame."""

    def __init__(self, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.Tconv = nn.Sequential(  # the published name
            nn.Conv2d(feature_dim, hidden_dim, kernel_size=(3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_dim, hidden_dim, kernel_size=(3, 1), padding=(1, 0), bias=False),
            nn.BatchNorm2d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_dim, 1, kernel_size=1, bias=False),
        )

    def forward(self, glance_features: Tensor) -> Tensor:
        """[B, G, D] -> [B, G]."""
        return self.Tconv(glance_features.transpose(1, 2).unsqueeze(-1)).flatten(1)


def sample_focus_frames(weights: Tensor, num_segments: int, num_focus_segments: int, offsets: Tensor | float) -> Tensor:
    """Frames at evenly spread quantiles of the frame weights: many where the weights are high (inverse transform).

    weights: [B, G], each row summing to 1; frame g's weight is spread evenly over its share T / G of the video.
    offsets: in [0, 1), a number or [B, F]; 0.5 in evaluation, uniform draws in training.
    Returns int64 [B, F] in 0 .. T-1, strictly increasing.
    """
    batch, num_glance = weights.shape
    steps = torch.arange(num_focus_segments, device=weights.device)
    thresholds = ((steps + offsets) / num_focus_segments).expand(batch, -1).contiguous()  # [B, F]
    upper = weights.cumsum(1)
    segment = torch.searchsorted(upper, thresholds).clamp_max(num_glance - 1)  # [B, F]
    inside = (thresholds - (upper - weights).gather(1, segment)) / weights.gather(1, segment)
    frames = ((segment + inside) * (num_segments / num_glance)).floor().long()
    frames = (frames - steps).cummax(1).values + steps  # push right where two would coincide
    return torch.minimum(frames.clamp_min(0), num_segments - num_focus_segments + steps)


def expected_logits(frame_weights: Tensor, glance_logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The temporal training signal: the weighted mean of the glance logits once frames drawn by weight are removed.

    frame_weights: [B, G], each row summing to 1; glance_logits: [B, G, C]. For i = 0 .. max(1, G // 3) - 1 the first
    i frames of a sequential draw without replacement (by weight) are taken out, and the logits of the rest averaged by
    weight. The result [B, C] is the mean over i and, for each i, over `MONTE_CARLO_DRAWS` draws. Gradients reach the
    weights, not their normaliser.

    The weighted mean is linear in the logits, so their coefficients [B, G] are averaged first and the logits
    multiplied once. With a `generator` on the CPU (evaluation) all videos share the same random numbers, so that the
    result for one depends neither on the device nor on which others are in its batch.
    """
    batch, num_glance = frame_weights.shape
    num_removals = max(1, num_glance // 3)
    with torch.no_grad():
        weights = frame_weights[:, None, None, :]  # [B, i, draws, G]
        shape = (batch if generator is None else 1, num_removals, MONTE_CARLO_DRAWS, num_glance)
        drawn_on = weights.device if generator is None else generator.device
        uniform = torch.rand(shape, generator=generator, device=drawn_on).to(weights.device, non_blocking=True)
        exponential = -uniform.clamp_min(1e-20).log()
        # The frame with the smallest exponential variable of rate w comes first: the same as drawing one by one.
        order = (exponential.log() - weights.log()).argsort(dim=-1)
        drawn = weights.expand(order.shape).gather(3, order)
        # What is left once the first i are out, summed from the end to keep the precision of small weights.
        left = drawn.flip(3).cumsum(3).flip(3).diagonal(dim1=1, dim2=3).transpose(1, 2).unsqueeze(3)  # [B, i, draws, 1]
        positions = torch.arange(num_glance, device=weights.device)
        stays = positions >= positions[:num_removals, None, None]  # [i, 1, G], in the order drawn
        share = stays / left.clamp_min(1e-30)  # sums of its inverse stay finite
        coefficients = torch.zeros_like(drawn).scatter_(3, order, share).mean(dim=(1, 2))  # [B, G]
    return torch.einsum("bg,bgc->bc", frame_weights * coefficients, glance_logits)
