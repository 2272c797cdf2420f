"""The losses and accuracies of an epoch: averaged, checked for being finite, and read back from the device as rarely
as possible; and how long its steps take."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ops.engine import Step
from ops.losses import LOSS_NAMES
from ops.metrics import TRAINING_ACCURACIES
from ops.utils import distributed
from ops.utils.errors import UserError

NAMES = (*LOSS_NAMES, *TRAINING_ACCURACIES)


@dataclass(frozen=True)
class Averages:
    """Means over some steps: seconds of a step, of these waiting for frames, and `NAMES` over all processes."""

    step_seconds: float
    data_seconds: float
    figures: dict[str, float]


class LossHistory:
    """The figures of every step of an epoch, on the device until somebody asks.

    before: the `totals` of steps that an interrupted run has done; accuracies missing from an older checkpoint count
    as 0.
    """

    def __init__(
        self, epoch: int, video_names: Callable[[int], str], before: tuple[list[float], int] | None = None
    ) -> None:
        self.epoch, self.video_names = epoch, video_names
        self._waiting: list[tuple[Tensor, Tensor]] = []
        total, self._steps = before or ([], 0)
        self._total = np.zeros(len(NAMES))
        self._total[: len(total)] = total
        self._timed_steps, self._data_seconds, self._line_data_seconds = 0, 0.0, 0.0
        self._started = self._line_started = time.perf_counter()

    def append(self, step: Step) -> None:
        """Remember a step."""
        self._waiting.append((torch.stack([step.figures[name].detach() for name in NAMES]), step.videos))
        self._line_data_seconds += step.data_seconds

    def flush(self) -> Averages:
        """Means over the steps since the last call; waits for the device.

        Raises UserError, on every process, when a figure of any process was not finite.
        """
        steps = len(self._waiting)
        if not steps:
            return Averages(0.0, 0.0, self.means())
        rows = torch.stack([figures for figures, _ in self._waiting])
        finite = rows.isfinite().all(1).float()
        sums = torch.cat([rows.sum(0), finite.sum()[None]]).double()
        sums = distributed.sum_over_processes(sums).cpu().numpy() / distributed.world_size()
        if sums[-1] < steps:
            self._stop(rows.cpu(), finite.cpu())
        self._total += sums[:-1]
        self._steps += steps
        self._timed_steps += steps
        self._waiting.clear()
        now = time.perf_counter()
        figures = dict(zip(NAMES, (sums[:-1] / steps).tolist(), strict=True))
        averages = Averages((now - self._line_started) / steps, self._line_data_seconds / steps, figures)
        self._data_seconds += self._line_data_seconds
        self._line_started, self._line_data_seconds = now, 0.0
        return averages

    def epoch_averages(self) -> Averages:
        """Means over the epoch so far; times over the steps that this process has done itself."""
        steps = max(1, self._timed_steps)
        return Averages((self._line_started - self._started) / steps, self._data_seconds / steps, self.means())

    def totals(self) -> tuple[list[float], int]:
        """The sum of each figure and the number of steps so far."""
        self.flush()
        return self._total.tolist(), self._steps

    def means(self) -> dict[str, float]:
        """Means of the figures over the whole epoch so far."""
        return dict(zip(NAMES, (self._total / max(1, self._steps)).tolist(), strict=True))

    def _stop(self, rows: Tensor, finite: Tensor) -> None:
        problem = None
        if not finite.all():
            first = int(finite.argmin())
            terms = ", ".join(f"{name} {value:.4g}" for name, value in zip(LOSS_NAMES, rows[first], strict=False))
            videos = ", ".join(self.video_names(int(index)) for index in self._waiting[first][1])
            step = self._steps + first
            problem = (
                step,
                f"the loss is not finite in epoch {self.epoch}, step {step}: {terms}; videos of the batch: {videos}. "
                "Lower --lr, or look at these videos",
            )
        problems = distributed.gather_objects(problem)
        source = min((p[0], rank) for rank, p in enumerate(problems) if p is not None)[1]
        raise UserError(problems[source][1], silent=distributed.rank() != source)
