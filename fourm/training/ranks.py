"""What the ranks tell each other of a step: how much it holds, and whether one of them must stop.

Asked a step ahead, over a group of the hosts (gloo): neither a device nor a host waits for it,
unless another rank is a whole step behind.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from fourm.training.task import Work


@dataclass(frozen=True)
class Shared:
    """A step, all ranks and micro-batches together."""

    counts: np.ndarray  # (K,) targets of each loss term
    work: Work
    stop: bool  # some rank was asked to stop


@dataclass(frozen=True)
class Asked:
    """A question to all ranks."""

    own: np.ndarray  # (K + 3,) what this rank says; the sum over all once ``request`` is done
    stop: Callable[[], bool]
    request: dist.Work | None = None  # None: this rank is alone

    def answer(self) -> Shared:
        """What all ranks said; one rank alone is asked to stop until the last moment."""
        if self.request is not None:
            self.request.wait()
        units, flops, stops = self.own[-3:].tolist()
        stop = self.stop() if self.request is None else stops > 0
        return Shared(self.own[:-3], Work(units, flops), stop)


def _leave() -> None:
    """Close the connections of the hosts: what still listens as a process ends may abort it."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


class Ranks:
    """All processes of a training."""

    def __init__(self, num: int) -> None:
        self._group = dist.new_group(backend="gloo") if num > 1 else None
        if num > 1:
            atexit.register(_leave)

    def ask(self, counts: np.ndarray, work: Work, stop: Callable[[], bool]) -> Asked:
        """Tell the others this rank's counts (K,) and work, and whether it must stop (all ranks
        must call, in the same order).
        """
        alone = self._group is None
        told = np.array([*counts, work.units, work.flops, not alone and stop()], dtype=np.float64)
        if alone:
            return Asked(told, stop)
        shared = torch.from_numpy(told)  # the same memory
        return Asked(told, stop, dist.all_reduce(shared, group=self._group, async_op=True))
