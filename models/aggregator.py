"""Step-by-step max-pooling classifier after FrameExit (arXiv 2104.13400); paper section 3.4.

Features are projected by an MLP and max-pooled over all steps so far; every step has a linear head of its own, so
that a prediction exists after each glance frame and after each focus patch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PROJECTION_DIM = 4096


class ProjectionMLP(nn.Module):
    """[N, D] -> [N, 4096]: linear, batch norm, ReLU."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, PROJECTION_DIM), nn.BatchNorm1d(PROJECTION_DIM), nn.ReLU(inplace=True)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class Aggregator(nn.Module):
    """Glance features [B, G, D] and focus features [B, F, 2048] -> logits after each of the G + F steps.

    Args:
        glance_dim, focus_dim: D and 2048.
        num_glance, num_focus: G and F.
        num_classes: C.
        dropout: before the head of each step.
    """

    def __init__(
        self, glance_dim: int, focus_dim: int, num_glance: int, num_focus: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.global_mlp = ProjectionMLP(glance_dim)
        self.local_mlp = ProjectionMLP(focus_dim)
        self.global_classifiers = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(PROJECTION_DIM, num_classes)) for _ in range(num_glance)
        )
        self.local_classifiers = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * PROJECTION_DIM, num_classes)) for _ in range(num_focus)
        )

    def glance_steps(self, glance_features: Tensor, wanted: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """[B, G, D] -> logits [B, n, C] of the n `wanted` steps (0..G-1, by default all), and the max-pooled projection
        of all glance frames [B, 4096]."""
        pooled = _running_max(self.global_mlp, glance_features)
        wanted = range(len(self.global_classifiers)) if wanted is None else wanted
        each = pooled.unbind(1)  # one operation in the backward pass, where indexing would be one for each step
        logits = [self.global_classifiers[step](each[step]) for step in wanted]
        return torch.stack(logits, dim=1), each[-1]

    def focus_steps(
        self,
        focus_features: Tensor,
        glance_pooled: Tensor,
        first_step: int = 0,
        focus_pooled: Tensor | None = None,
        wanted: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[B, f, 2048], the features of focus steps first_step .. first_step + f - 1, -> logits [B, n, C] of the n
        `wanted` ones (by default all), and the max-pooled projection so far [B, 4096], which continues a `focus_pooled`
        of the steps before."""
        pooled = _running_max(self.local_mlp, focus_features)
        if focus_pooled is not None:
            pooled = torch.maximum(pooled, focus_pooled.unsqueeze(1))
        each = pooled.unbind(1)
        wanted = range(first_step, first_step + len(each)) if wanted is None else wanted
        logits = [
            self.local_classifiers[step](torch.cat([each[step - first_step], glance_pooled], dim=1)) for step in wanted
        ]
        return torch.stack(logits, dim=1), each[-1]

    def forward(self, glance_features: Tensor, focus_features: Tensor) -> Tensor:
        """Logits of all steps, [B, G + F, C]."""
        glance_logits, glance_pooled = self.glance_steps(glance_features)
        focus_logits, _ = self.focus_steps(focus_features, glance_pooled)
        return torch.cat([glance_logits, focus_logits], dim=1)


def _running_max(mlp: ProjectionMLP, features: Tensor) -> Tensor:
    projected = mlp(features.flatten(0, 1)).view(*features.shape[:2], -1)
    return projected.cummax(dim=1).values
