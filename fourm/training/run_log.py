"""What a run tells while it goes on: a progress bar, a log of JSON lines, a tracker.

Losses stay on the device until a line is due; then those of all steps since the last one are summed
over the ranks in one transfer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor
from tqdm import tqdm

from fourm.errors import UserError, nearest
from fourm.progress import progress_bar
from fourm.training.ranks import Ranks
from fourm.training.run_folder import LOG_FILE, append_log
from fourm.training.speed import Meter
from fourm.training.task import Task
from fourm.training.watchdog import Progress, compare


def checked_tracker(name: str) -> str:
    """The name of a tracker that is there. Raises UserError for one that cannot be had: Accelerate
    would warn and track nothing.
    """
    usual = [str(kind.value) for kind in LoggerType if kind is not LoggerType.ALL]
    own = set(LOGGER_TYPE_TO_CLASS) - set(usual)  # registered by who calls us
    if not name or name == LoggerType.ALL or name in (*get_available_trackers(), *own):
        return name
    if name not in usual:
        raise UserError(
            f"loop.tracker: there is no {name!r}; known are {', '.join(usual)}"
            f"{nearest(name, usual)}"
        )
    package = name.replace("_", "-")
    raise UserError(f"loop.tracker={name} needs {package}: pip install {package}")


@dataclass(frozen=True)
class StepLosses:
    """What a step found, K terms."""

    step: int  # number of the step, from 1
    sums: Tensor  # (K,) of this rank, on the device
    counts: np.ndarray  # (K,) of all ranks
    grad_norm: Tensor  # scalar
    unreadable: int = 0  # damaged files that all ranks have met in it


class RunLog:
    """Log and progress of one run; written by the leading rank alone."""

    def __init__(
        self,
        out: Path,
        task: Task,
        accelerator: Accelerator,
        tracker: str,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._path, self._task, self._accelerator = out / LOG_FILE, task, accelerator
        self._tracker, self._lead = tracker, accelerator.is_main_process
        self._ranks, self._progress = ranks, progress
        self._pending: list[StepLosses] = []
        self._unreadable = 0  # so far

    def bar(self, step: int, num_steps: int, name: str) -> tqdm:
        """A progress bar that stands at ``step``."""
        return progress_bar(
            total=num_steps, initial=step, desc=name, unit="step", disable=not self._lead
        )

    def add(self, losses: StepLosses) -> None:
        """Keep what a step found until ``write``."""
        self._pending.append(losses)
        self._unreadable += losses.unreadable

    def write(self, bar: tqdm, watched: dict[str, float], meter: Meter) -> None:
        """Log all steps since the last time (all ranks must call), the last one with the speed of
        all of them.
        """
        records = self._records()
        speed = meter.speed()  # the device is idle: its losses are here
        meter.restart()
        records[-1] |= watched | speed.figures()
        if self._unreadable:
            records[-1]["unreadable"] = self._unreadable
        records[-1] |= compare(self._progress, self._ranks)
        self._pending = []
        if self._lead:
            append_log(self._path, records)
            bar.set_postfix_str(f"loss {records[-1]['loss']:.3f}, {speed}")
        if self._tracker:
            self._accelerator.log(records[-1], step=records[-1]["step"])

    def note(self, **record: Any) -> None:
        """One line of another kind."""
        if self._lead:
            append_log(self._path, [record])

    def _records(self) -> list[dict[str, Any]]:
        stacked = torch.stack([losses.sums.float() for losses in self._pending])
        summed = self._accelerator.reduce(stacked, "sum")
        assert isinstance(summed, Tensor)
        norms = torch.stack([losses.grad_norm for losses in self._pending]).tolist()
        found = zip(self._pending, summed.cpu().double().numpy(), norms, strict=True)
        records = []
        for losses, sums, norm in found:
            loss = float((sums * self._task.weights(losses.counts)).sum())
            terms = zip(self._task.terms, sums.tolist(), losses.counts.tolist(), strict=True)
            records.append(
                {
                    "step": losses.step,
                    "loss": loss,
                    "grad_norm": norm,
                    "terms": {name: total / count for name, total, count in terms if count},
                }
            )
        return records
