"""What each step learns from, a step ahead: while one step runs, the batches of the next are here,
and all ranks have been asked how much they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from fourm.training.ranks import Asked, Ranks
from fourm.training.speed import Meter
from fourm.training.task import Measured, Task, Work
from fourm.training.watchdog import Progress


@dataclass(frozen=True)
class StepBatches:
    """What a step learns from."""

    batches: list[Any]  # this rank's micro-batches
    asked: Asked  # what all ranks have of it


class Feed:
    """Batches of a task for this rank.

    Args:
        num_workers: loader processes; 0 = in this one.
        stops: whether this rank was asked to stop.
    """

    def __init__(
        self,
        task: Task,
        accelerator: Accelerator,
        num_workers: int,
        meter: Meter,
        ranks: Ranks,
        progress: Progress,
        stops: Callable[[], bool],
    ) -> None:
        self._task, self._accelerator, self._num_workers = task, accelerator, num_workers
        self._meter, self._stops = meter, stops
        self._ranks, self._progress = ranks, progress

    def steps(self, numbers: range, model: nn.Module) -> Iterator[StepBatches]:
        """Of these steps; all of them must have come before the task's batches change."""
        loader, held = self._loader(numbers), None
        while True:
            self._progress.at("batches")
            with self._meter.waiting():
                batches = next(loader, None)
            if batches is None:
                break
            counts = np.sum([self._task.counts(batch) for batch in batches], axis=0)
            work = self._work(model, batches, counts)
            ahead = StepBatches(batches, self._ranks.ask(counts, work, self._stops))
            if held is not None:
                yield held
            held = ahead
        if held is not None:
            yield held

    def _loader(self, numbers: range) -> Iterator[list[Any]]:
        accelerator, workers = self._accelerator, self._num_workers
        data = self._task.batches(accelerator.process_index, accelerator.num_processes)
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            pin_memory=accelerator.device.type == "cuda",
            prefetch_factor=4 if workers else None,
        )
        return iter(loader)

    def _work(self, model: nn.Module, batches: list[Any], counts: np.ndarray) -> Work:
        if not isinstance(self._task, Measured):
            return Work(float(counts.max()), 0.0)
        return sum((self._task.work(model, batch) for batch in batches), start=Work(0.0, 0.0))
