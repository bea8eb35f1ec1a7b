"""Rows out of a packed tensor and back, with gradients that know that no row is taken twice.

Indexing would add up gradients one by one (an accumulating ``index_put``), which is slow and
needless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """Distinct rows out, and back into zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return place_rows(grads[0], ctx.saved_tensors[0], ctx.num), None


class _PlaceRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, num: int) -> Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros(num, *rows.shape[1:]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return take_rows(grads[0], ctx.saved_tensors[0]), None, None


class _Reorder(torch.autograd.Function):
    """All rows in another order; the way back of the gradient is the inverse, also a take."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(grads[0], inverse, order), None, None


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]`` (n, ...) for an index (n,) without repeats."""
    return _TakeRows.apply(rows, index)


def place_rows(rows: Tensor, index: Tensor, num: int) -> Tensor:
    """(num, ...), zero but for ``rows`` (n, ...) at an index (n,) without repeats."""
    return _PlaceRows.apply(rows, index, num)


@dataclass(frozen=True)
class RowOrder:
    """An order of all T rows, and the way back."""

    order: Tensor  # (T,) which row comes at each place
    place: Tensor  # (T,) where each row is then: the inverse

    @staticmethod
    def of(order: np.ndarray) -> RowOrder:
        """``order`` (T,) holds each row number once."""
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return RowOrder(torch.from_numpy(order), torch.from_numpy(place))

    @staticmethod
    def by_owner(*owners: np.ndarray) -> RowOrder:
        """For tensors one after another whose rows belong to samples ``owners`` (n,) each: the
        rows of a sample together, those of the first tensor first.
        """
        return RowOrder.of(np.argsort(np.concatenate(owners), kind="stable"))

    def __call__(self, rows: Tensor) -> Tensor:
        """(T, ...) rows -> (T, ...) in this order."""
        return _Reorder.apply(rows, self.order, self.place)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of ``__call__``."""
        return _Reorder.apply(rows, self.place, self.order)
