"""What the ranks tell each other of a step: how much it holds, and whether one of them must stop.

Asked a step ahead, over a group of the hosts (gloo): neither a device nor a host waits for it,
unless another rank is a whole step behind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from fourm.training.task import Work


@dataclass(frozen=True)
class Shared:
    """A step, all ranks and micro-batches together."""

    counts: np.ndarray  # (K,) targets of each loss term
    work: Work
    stop: bool  # some rank was asked to stop


@dataclass
class Asked:
    """A question to all ranks."""

    own: Tensor  # (K + 3,) what this rank says; the sum over all once ``work`` is done
    stop: Callable[[], bool]
    request: dist.Work | None = field(default=None)

    def answer(self) -> Shared:
        """What all ranks said; one rank alone is asked to stop until the last moment."""
        if self.request is not None:
            self.request.wait()
        *counts, units, flops, stops = self.own.tolist()
        alone = self.request is None
        stop = self.stop() if alone else stops > 0
        return Shared(np.array(counts), Work(units, flops), stop)


class Ranks:
    """All processes of a training."""

    def __init__(self, num: int) -> None:
        self._group = dist.new_group(backend="gloo") if num > 1 else None

    def ask(self, counts: np.ndarray, work: Work, stop: Callable[[], bool]) -> Asked:
        """Tell the others this rank's counts (K,) and work, and whether it must stop (all ranks
        must call, in the same order).
        """
        told = [*counts, work.units, work.flops, self._group is not None and stop()]
        asked = Asked(torch.tensor(told, dtype=torch.float64), stop)
        if self._group is not None:
            asked.request = dist.all_reduce(asked.own, group=self._group, async_op=True)
        return asked
