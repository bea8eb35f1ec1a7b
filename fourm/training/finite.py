"""Whether a step is broken: its loss or gradient is no number. The device knows at once, the host a
step later.

To ask a GPU for a number is to wait until it has nothing left to do. So the verdict is made on the
device, agreed over the ranks, and handed to the optimizers as ``found_inf`` (the protocol that
``torch``'s fused optimizers know from gradient scaling): a broken step changes neither weights nor
moments nor the average. The host reads a copy of it when the next step has been queued, and always
before something is written; until then the samples of the step are kept, so that the right ones
are named. On a CPU there is nothing to wait for: the verdict is read before the optimizers run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from fourm.training.task import Task


@dataclass(frozen=True)
class BrokenStep:
    """A step whose loss or gradient is not finite, and this rank's part in it."""

    step: int  # from 1
    grad_norm: float
    sums: np.ndarray  # (M, K) of each of this rank's micro-batches and loss terms
    batches: list[Any]  # M

    def write_report(self, path: Path, task: Task, accelerator: Accelerator) -> None:
        """A JSON file of the samples of all ranks (all must call), with the loss terms that are not
        finite in each micro-batch.
        """
        own = []
        for batch, sums in zip(self.batches, self.sums, strict=True):
            terms = zip(task.terms, np.isfinite(sums), strict=True)
            broken = [name for name, is_finite in terms if not is_finite]
            place = {"rank": accelerator.process_index, "not_finite": broken}
            own.append({**place, **task.describe(batch)})
        batches = [batch for of_rank in gather_object([own]) for batch in of_rank]
        if accelerator.is_main_process:
            report = {"step": self.step, "grad_norm": str(self.grad_norm), "batches": batches}
            path.write_text(json.dumps(report, indent=1) + "\n")


@dataclass(frozen=True)
class _Pending:
    step: int
    batches: list[Any]
    found: np.ndarray  # (2 + M * K,): verdict, norm, sums; not there before ``copied``
    copied: torch.cuda.Event | None


class FiniteCheck:
    """Judges steps and keeps what a report needs until the verdicts are read.

    Args:
        late: the host reads verdicts a step later; otherwise at once.
    """

    def __init__(self, accelerator: Accelerator, late: bool) -> None:
        self.late = late
        self._device, self._num_ranks = accelerator.device, accelerator.num_processes
        self._pending: list[_Pending] = []

    def judge(self, step: int, batches: list[Any], sums: Tensor, norm: Tensor) -> Tensor:
        """1 where a step is broken on some rank, else 0: a scalar on the device.

        Args:
            sums: (M, K) of each micro-batch and loss term; norm: scalar, of the gradient.
        """
        norm, sums = norm.detach().float(), sums.detach().float()
        broken = 1.0 - (torch.isfinite(norm) & torch.isfinite(sums).all()).float()
        if self._num_ranks > 1:
            dist.all_reduce(broken, dist.ReduceOp.MAX)
        found = torch.cat([torch.stack([broken, norm]), sums.flatten()])
        on_cuda = self._device.type == "cuda"
        host = torch.empty(len(found), pin_memory=on_cuda)
        host.copy_(found, non_blocking=True)
        copied = torch.cuda.Event() if on_cuda else None
        if copied is not None:
            copied.record()
        self._pending.append(_Pending(step, batches, host.numpy(), copied))
        return broken

    def broken(self, behind: int = 0) -> BrokenStep | None:
        """The first broken step of those not looked at yet, the newest ``behind`` left out."""
        while len(self._pending) > behind:
            judged = self._pending.pop(0)
            if judged.copied is not None:
                judged.copied.synchronize()
            if judged.found[0]:
                sums = judged.found[2:].reshape(len(judged.batches), -1)
                return BrokenStep(judged.step, float(judged.found[1]), sums, judged.batches)
        return None
