"""What a run tells while it goes on: a progress bar, a log of JSON lines, a tracker.

Losses stay on the device until a line is due; then those of all steps since the last one are summed
over the ranks in one transfer.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from fourm.training.run_folder import LOG_FILE, append_log
from fourm.training.task import Task


@dataclass(frozen=True)
class StepLosses:
    """What a step found, K terms."""

    step: int  # number of the step, from 1
    sums: Tensor  # (K,) of this rank, on the device
    counts: np.ndarray  # (K,) of all ranks
    grad_norm: Tensor  # scalar


class NotFinite(Exception):
    """A loss that is no number."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"loss of step {step}: {value}")
        self.step, self.value = step, value


class RunLog:
    """Log and progress of one run; written by the leading rank alone."""

    def __init__(self, out: Path, task: Task, accelerator: Accelerator, tracker: str) -> None:
        self._path, self._task, self._accelerator = out / LOG_FILE, task, accelerator
        self._tracker, self._lead = tracker, accelerator.is_main_process
        self._pending: list[StepLosses] = []
        self._started = time.perf_counter()

    def bar(self, step: int, num_steps: int, name: str) -> tqdm:
        """A progress bar that stands at ``step``."""
        return tqdm(
            total=num_steps,
            initial=step,
            desc=name,
            unit="step",
            disable=not self._lead,
            mininterval=0.5,
        )

    def add(self, losses: StepLosses) -> None:
        """Keep what a step found until ``write``."""
        self._pending.append(losses)

    def write(self, bar: tqdm, watched: dict[str, float]) -> None:
        """Log all steps since the last time (all ranks must call).

        Raises NotFinite, with nothing written, for a loss that is no number.
        """
        records = self._records()
        records[-1] |= watched
        counted = sum(losses.counts.sum() for losses in self._pending)
        rate = counted / (time.perf_counter() - self._started)
        self._pending = []
        self.restart_clock()
        loss, unit = records[-1]["loss"], self._task.unit
        if self._lead:
            append_log(self._path, records)
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} {unit}/s")
        if self._tracker:
            figures = {**records[-1], f"{unit}_per_second": rate}
            self._accelerator.log(figures, step=records[-1]["step"])

    def note(self, **record: Any) -> None:
        """One line of another kind."""
        if self._lead:
            append_log(self._path, [record])

    def restart_clock(self) -> None:
        """Leave the time since the last line out of the next rate."""
        self._started = time.perf_counter()

    def _records(self) -> list[dict[str, Any]]:
        stacked = torch.stack([losses.sums.float() for losses in self._pending])
        summed = self._accelerator.reduce(stacked, "sum")
        assert isinstance(summed, Tensor)
        records = []
        for losses, sums in zip(self._pending, summed.cpu().double().numpy(), strict=True):
            loss = float((sums * self._task.weights(losses.counts)).sum())
            if not np.isfinite(loss):
                raise NotFinite(losses.step, loss)
            terms = zip(self._task.terms, sums.tolist(), losses.counts.tolist(), strict=True)
            records.append(
                {
                    "step": losses.step,
                    "loss": loss,
                    "grad_norm": float(losses.grad_norm),
                    "terms": {name: total / count for name, total, count in terms if count},
                }
            )
        return records
