"""The losses and accuracies of an epoch: averaged, checked for being finite, and read back from the device as rarely
as possible."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ops import distributed
from ops.errors import UserError
from ops.losses import LOSS_NAMES
from ops.metrics import TRAINING_ACCURACIES

NAMES = (*LOSS_NAMES, *TRAINING_ACCURACIES)


class LossHistory:
    """The loss terms and accuracies of every step of an epoch, on the device until somebody asks.

    before: the `totals` of steps that an interrupted run has done; one of an older version without accuracies counts
    as 0 for them.
    """

    def __init__(
        self, epoch: int, video_names: Callable[[int], str], before: tuple[list[float], int] | None = None
    ) -> None:
        self.epoch, self.video_names = epoch, video_names
        self._waiting: list[tuple[Tensor, Tensor]] = []
        total, self._steps = before or ([], 0)
        self._total = np.zeros(len(NAMES))
        self._total[: len(total)] = total

    def append(self, figures: dict[str, Tensor], indices: Tensor) -> None:
        """Remember a step: its `NAMES`, and which videos it saw."""
        self._waiting.append((torch.stack([figures[name].detach() for name in NAMES]), indices))

    def flush(self) -> dict[str, float]:
        """Means over the steps since the last call and over all processes.

        Raises UserError, on every process, when a term of any process was not finite.
        """
        if not self._waiting:
            return self.means()
        rows = torch.stack([terms for terms, _ in self._waiting])
        finite = rows.isfinite().all(1).float()
        sums = torch.cat([rows.sum(0), finite.sum()[None]]).double()
        sums = distributed.sum_over_processes(sums).cpu().numpy() / distributed.world_size()
        if sums[-1] < len(rows):
            self._stop(rows.cpu(), finite.cpu())
        self._total += sums[:-1]
        self._steps += len(rows)
        self._waiting.clear()
        return dict(zip(NAMES, (sums[:-1] / len(rows)).tolist(), strict=True))

    def totals(self) -> tuple[list[float], int]:
        """The sum of each term and the number of steps so far."""
        self.flush()
        return self._total.tolist(), self._steps

    def means(self) -> dict[str, float]:
        """Means over the whole epoch so far."""
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
        raise UserError(problems[source][1], said_elsewhere=distributed.rank() != source)
