"""Look-ups into a large table whose gradient costs the rows that were looked up, not the table.

torch makes a gradient as large as the table for every look-up, fills it with zeros and adds them
up. Here a training loop may keep the gradient from step to step (``keep``): look-ups add to it
where it lies, as Megatron-LM lets products do, and only their rows become zero again (``forget``).
Other loops let gradients go and find what torch would have made.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LookUps:
    """Of a table (V, D): which of its rows have a gradient since the last update."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._elsewhere = False
        self.watched = False  # somebody asks for the rows, and forgets them after a step
        self.keeps = False  # the gradient stays

    def __call__(self, table: Tensor, rows: Tensor) -> Tensor:
        """Rows (T,), which may repeat -> (T, D)."""
        if not (table.requires_grad and torch.is_grad_enabled()):
            return F.embedding(rows, table)
        if self.watched:
            self.note(rows)
        return _LookUp.apply(table, rows) if self.keeps else F.embedding(rows, table)

    def note(self, rows: Tensor) -> None:
        """These rows (n,) have a gradient."""
        self._rows.append(rows)

    def note_all(self) -> None:
        """Something that is no look-up may give any row a gradient."""
        self._elsewhere = True

    def touched(self) -> Tensor | None:
        """The rows (n,) that may have a gradient, with repeats; None = it may be any."""
        return None if self._elsewhere or not self._rows else torch.cat(self._rows)

    def keep(self, table: nn.Parameter) -> None:
        """From now on ``table`` has a gradient, zero to begin with. From the first step on, so that
        sums are rounded in one order, before and after a run is taken up again.
        """
        self.watched = self.keeps = True
        table.grad = torch.zeros_like(table)

    def forget(self, table: nn.Parameter) -> None:
        """The next step begins: a kept gradient is zero again, any other is gone."""
        rows = self.touched()
        self._rows, self._elsewhere = [], False
        if not self.keeps:
            table.grad = None
        elif table.grad is None:  # taken away, so that an optimizer leaves the table alone
            table.grad = torch.zeros_like(table)
        elif rows is None:
            table.grad.zero_()
        else:
            table.grad.index_fill_(0, rows, 0.0)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.table = table
        return F.embedding(rows, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        (rows,), table, found = ctx.saved_tensors, ctx.table, grads[0].to(ctx.table.dtype)
        if table.grad is None:  # somebody has let it go
            table.grad = torch.zeros_like(table)
        table.grad.index_add_(0, rows, found)
        return None, None
