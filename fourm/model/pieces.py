"""A table cut into pieces, whose gradients come back as one without a copy.

Output heads of all vocabularies are one table: by far the largest parameter. torch gathers the
gradients of a ``split`` with a copy of them all. Here whoever computes the gradient of a piece may
write it where it belongs; the table's gradient is then there already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class GradientSlot:
    """The place of one piece's gradient in that of the table. One may take it; what others find is
    added by autograd.
    """

    def __init__(self, place: Tensor) -> None:
        self._place: Tensor | None = place

    def take(self) -> Tensor | None:
        """The place, of the piece's shape, not yet filled; None if it was taken before."""
        place, self._place = self._place, None
        return place


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, gradient: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.gradient, ctx.sizes, ctx.shape = gradient, sizes, table.shape
        return table.split(sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, None, None]:
        # the accumulator adopts a gradient that nobody else holds
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # a second backward pass of the same graph
            gradient = next(g for g in grads if g is not None).new_empty(ctx.shape)
        for place, found in zip(gradient.split(ctx.sizes), grads, strict=True):
            if found is None:
                place.zero_()
            elif found.data_ptr() != place.data_ptr():
                place.copy_(found)
        return gradient, None, None


def cut(table: Tensor, sizes: list[int]) -> list[tuple[Tensor, GradientSlot | None]]:
    """Pieces of ``sizes`` rows (V_i, D) of a table (V, D), each with the place of its gradient
    where there will be one.
    """
    if not (table.requires_grad and torch.is_grad_enabled()):
        return [(piece, None) for piece in table.split(sizes)]
    gradient = torch.empty_like(table)
    places = gradient.split(sizes)
    pieces = _Pieces.apply(table, gradient, sizes)
    return [(piece, GradientSlot(place)) for piece, place in zip(pieces, places, strict=True)]
