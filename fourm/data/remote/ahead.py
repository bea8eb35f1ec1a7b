"""Which samples come next, told to sources that have to fetch them.

The order is known, so nothing is guessed: with step s a loader's worker asks for the blocks of its
own steps up to s + ``num_steps``. All workers and ranks of a node together ask for all that the
node needs; what several of them ask for is fetched once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from fourm.data.order import SampleOrder


class Fetched(Protocol):
    """A source or column that can be told what will be asked of it."""

    def want(self, samples: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        ...


class LookAhead:
    """Tells sources of the steps to come.

    Args:
        draws: of a step, those that this rank will ask for.
    """

    def __init__(
        self,
        sources: Sequence[Fetched],
        order: SampleOrder,
        draws: Callable[[int], np.ndarray],
        num_steps: int,
    ) -> None:
        self._sources, self._order, self._draws = sources, order, draws
        self._num_steps = num_steps
        self._told = -1  # last step that sources know of

    def __call__(self, step: int) -> None:
        """``step`` is about to be read."""
        worker = torch.utils.data.get_worker_info()
        stride = worker.num_workers if worker is not None else 1
        last = step + self._num_steps
        first = self._told + stride if step <= self._told <= last else step + stride
        for ahead in range(first, last + 1, stride):
            drawn = self._order(self._draws(ahead))
            for number in np.unique(drawn.source).tolist():
                self._sources[number].want(drawn.sample[drawn.source == number])
            self._told = ahead
