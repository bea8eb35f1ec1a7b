"""Rows out of a packed tensor and back, with gradients that know that no row is taken twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _TakeRows(torch.autograd.Function):
    """Distinct rows out, and back into zeros: indexing would add up gradients one by one, which is
    slow and needless.
    """

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


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """``rows[index]`` (n, ...) for an index (n,) without repeats."""
    return _TakeRows.apply(rows, index)


def place_rows(rows: Tensor, index: Tensor, num: int) -> Tensor:
    """(num, ...), zero but for ``rows`` (n, ...) at an index (n,) without repeats."""
    return _PlaceRows.apply(rows, index, num)
