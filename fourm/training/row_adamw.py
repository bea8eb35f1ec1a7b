"""AdamW for tables that are looked up: only the rows of a batch are updated.

A table of a hundred thousand ids has a gradient in a thousand rows; dense AdamW reads and writes
all of them, and their moments, at every step. Here a row rests until it is looked up again. Its
moments are then what they would be by now (multiplied by beta^k for the k steps it missed), and the
moves that momentum would have made in those steps are made at once with the new one, at the present
rate: with r = beta1 / sqrt(beta2), the sum of k moves that shrink by r each. So what is learned
from a rare id is not less than with dense AdamW (without these moves it would be a tenth), it is
only there one look-up later. Where all rows are looked up at every step the two are equal to
rounding. Tables are not decayed, so no decay is missed. Fresh rows that no batch has held stay
exactly as they were, as they do in dense AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fourm.errors import UserError
from fourm.model.lookups import LookUps
from fourm.training.gradients import among_others

_EPS = 1e-8


class RowAdamW(torch.optim.Optimizer):
    """For parameters (V, D) by their look-ups, which all ranks have noted.

    Args:
        tables: what each parameter's rows were looked up by since the last update.
    """

    found_inf: Tensor | None = None  # scalar; where it is 1, a step changes nothing
    grad_scale: Tensor | None = None  # scalar that gradients are divided by

    def __init__(
        self, tables: Mapping[nn.Parameter, LookUps], lr: float, betas: tuple[float, float]
    ) -> None:
        super().__init__(list(tables), {"lr": lr, "betas": betas})
        self._look_ups = dict(tables)
        for look_ups in tables.values():
            look_ups.watched = True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of the rows that were looked up on any rank."""
        if self.found_inf is not None and self.found_inf > 0:
            return
        for group in self.param_groups:
            for table in group["params"]:
                if hasattr(table, "device_mesh"):
                    raise UserError(
                        "optimizer.tables=rows needs whole tables: use dense with sharded weights"
                    )
                if table.grad is not None:
                    rows = _of_all_ranks(self._look_ups[table].touched(), table)
                    self._update(table, rows, group["lr"], *group["betas"])

    def _update(
        self, table: nn.Parameter, rows: Tensor, rate: float, beta1: float, beta2: float
    ) -> None:
        """Rows (n,), each once, of a table (V, D)."""
        state, gradient = self.state[table], table.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
            # step of each row's last update: float32, as optimizers keep their state; exact to 2^24
            state["updated"] = torch.zeros(len(table), device=table.device)
        state["step"] += 1
        step = int(state["step"])
        new = gradient[rows] if self.grad_scale is None else gradient[rows] / self.grad_scale
        mean, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        missed = (step - 1 - state["updated"][rows])[:, None]
        ratio = beta1 / beta2**0.5
        unbiased = (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        tail = mean / square.sqrt().add_(_EPS) * (1 - ratio**missed)
        move = tail * (unbiased * ratio / (1 - ratio))
        mean = (mean * beta1**missed).lerp_(new, 1 - beta1)
        square = (square * beta2**missed).lerp_(new.square(), 1 - beta2)
        size = square.sqrt().div_((1 - beta2**step) ** 0.5).add_(_EPS)
        move += mean / size / (1 - beta1**step)
        table.index_add_(0, rows, move, alpha=-rate)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        state["updated"][rows] = float(step)


def _of_all_ranks(rows: Tensor | None, table: Tensor) -> Tensor:
    """The rows that any rank has looked up (n,), each once; all where a rank does not know."""
    every = torch.arange(len(table), device=table.device)
    rows = every if rows is None else rows.unique()
    if not among_others():
        return rows
    marked = torch.zeros(len(table), dtype=torch.uint8, device=table.device)
    marked[rows] = 1
    dist.all_reduce(marked, dist.ReduceOp.MAX)
    return marked.nonzero()[:, 0]
