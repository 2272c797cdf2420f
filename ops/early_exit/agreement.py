"""Whether inference that stops did what the simulation says, video by video, and if not, why."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.early_exit.curve import criterion_values, exit_decisions
from ops.early_exit.inference import Answer
from ops.metrics import ArrayLike

# Of a threshold, or of 1 where that is more: a value this close may fall on either side by rounding.
TIE = 1e-4
TIE_BELOW_FLOAT32 = 2e-2


@dataclass(frozen=True)
class Agreement:
    """Row numbers of the videos of each kind; `difference` is the largest between logits that should be the same."""

    videos: int
    ties: tuple[int, ...]  # a value at a threshold, or two classes level: rounding decides
    other_frames: tuple[int, ...]  # a focus frame next to the simulation's: rounding decides there too
    unexplained: tuple[int, ...]
    difference: float
    tie: float = TIE  # what counts as one

    def describe(self, name: Callable[[int], str]) -> str:
        """One line; `name` gives a video's name from its row."""
        same = self.videos - len(self.ties) - len(self.other_frames) - len(self.unexplained)
        line = f"{same} of {self.videos} videos: the exit and the prediction of the simulation"
        if self.ties:
            line += f"; {len(self.ties)} within {self.tie:g} of a threshold or a tie of classes, where rounding decides"
        if self.other_frames:
            line += f"; {len(self.other_frames)} with a focus frame next to the simulation's, by rounding"
        if self.unexplained:
            line += f"; {len(self.unexplained)} DIFFER: {', '.join(name(row) for row in self.unexplained[:5])}"
        return f"{line}. Logits differ by at most {self.difference:.1e}"


def compare_with_simulation(
    answer: Answer,
    exit_logits: ArrayLike,
    focus_indices: ArrayLike,
    thresholds: ArrayLike,
    criterion: str,
    tie: float = TIE,
) -> Agreement:
    """Compare the answers [M] with exit_logits [M, K, C] and focus_indices [M, F] of the same videos in full.

    A different exit is a tie where the simulation's value at the earlier of the two is within `tie` of the threshold, a
    different class at the same exit where the two classes' logits are within `tie` of each other.
    """
    logits = torch.as_tensor(exit_logits)
    rows = torch.arange(len(logits))
    exits = exit_decisions(logits, thresholds, criterion)
    expected = logits[rows, answer.exits]  # at the exit that was taken
    difference = (answer.logits - expected).abs().amax(dim=1)

    earlier = torch.minimum(exits, answer.exits)
    values = criterion_values(logits[rows, earlier], criterion)
    threshold = torch.as_tensor(thresholds, dtype=torch.float32)[earlier]
    distance = (values - threshold).abs()
    other_exit = exits != answer.exits
    best, chosen = expected.argmax(dim=1), answer.logits.argmax(dim=1)
    lead = expected[rows, best] - expected[rows, chosen]

    moved = (answer.focus_indices - torch.as_tensor(focus_indices)).abs().amax(dim=1)
    moved[answer.exits == 0] = 0  # no frame was chosen
    differs = other_exit | (best != chosen)
    near_threshold = threshold.isfinite() & (distance <= tie * threshold.abs().clamp(min=1))
    near_class = lead <= tie * expected.abs().amax(dim=1).clamp(min=1)
    level = differs & (moved == 0) & torch.where(other_exit, near_threshold, near_class)
    other_frames = differs & (moved == 1)
    comparable = difference[moved == 0]
    return Agreement(
        videos=len(rows),
        ties=_rows(level),
        other_frames=_rows(other_frames),
        unexplained=_rows(differs & ~level & ~other_frames),
        difference=float(comparable.max()) if len(comparable) else 0.0,
        tie=tie,
    )


def _rows(chosen: Tensor) -> tuple[int, ...]:
    return tuple(chosen.nonzero().flatten().tolist())
