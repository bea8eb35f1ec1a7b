"""What the loop trains: a task gives batches, losses and figures; everything else about training is
the loop's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Work:
    """What a step or a batch is, for figures of speed and of damage."""

    units: float  # what ``Task.unit`` names
    flops: float  # operations that the model needs, forward and backward; 0 = not known
    unreadable: int = 0  # files that turned out to be damaged: what their samples go without

    def __add__(self, other: Work) -> Work:
        return Work(
            self.units + other.units,
            self.flops + other.flops,
            self.unreadable + other.unreadable,
        )


class Task(Protocol):
    """What the loop trains."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the K loss terms."""
        ...

    @property
    def unit(self) -> str:
        """What is processed: "tokens", "pictures"; without ``Measured``, the most frequent target
        is counted.
        """
        ...

    def batches(self, rank: int, world_size: int) -> Any:
        """Data set that maps a step to this rank's list of micro-batches."""
        ...

    def counts(self, batch: Any) -> np.ndarray:
        """Targets of each term in a batch, (K,), from the host alone."""
        ...

    def forward(self, model: nn.Module, batch: Any) -> Tensor:
        """Sums of each term (K,); calls ``model(...)`` exactly once."""
        ...

    def weights(self, counts: np.ndarray) -> np.ndarray:
        """Factor of each term's sum (K,) given the global counts."""
        ...

    def watch(self, model: nn.Module) -> dict[str, float]:
        """Figures of training itself for the log, now and then."""
        ...

    def evaluate(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on held-out data."""
        ...

    def write_description(self, model: nn.Module, folder: Path) -> None:
        """Write what makes a folder with weights a usable model; the loop writes the weights."""
        ...

    def describe(self, batch: Any) -> dict[str, Any]:
        """Which samples a batch holds, for the report of a broken step."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A task that knows how much work a batch is."""

    def work(self, model: nn.Module, batch: Any) -> Work:
        """Of a batch, from the host alone."""
        ...


class StagesOfLearning(Protocol):
    """Which parameters learn at a step (from 0)."""

    def begin(self, step: int, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> float:
        """Ready the optimizers for a step; returns the share of the scheduled learning rates."""
        ...

    def restrict(self, step: int, model: nn.Module) -> None:
        """Take away the gradients of what does not learn at a step."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A task of whose model not all learns at every step."""

    @property
    def stages(self) -> StagesOfLearning | None:
        """None: all of it does."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """A task whose batches depend on what was learned so far: they hold until the next multiple of
    ``adapt_every`` steps (0: for ever).
    """

    @property
    def adapt_every(self) -> int:
        """Steps between two changes; 0 = never."""
        ...

    def adapt(
        self, model: nn.Module, device: torch.device, step: int, agreed: Callable[[Tensor], Tensor]
    ) -> dict[str, Any]:
        """Change what ``batches`` gives from ``step`` on; ``agreed`` is the mean of a tensor over
        all ranks. Returns figures for the log.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep for that, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        ...
