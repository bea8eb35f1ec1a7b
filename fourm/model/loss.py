"""Cross-entropy of a linear head, with as few passes over its logits as it takes.

Logits of all targets over a vocabulary are by far the largest tensor of a step (tokens x
vocabulary). Few of them are kept as log-probabilities, which become their own gradient in place.
Many are taken in chunks of rows: the gradient of a chunk is made while its logits are at hand, and
only the gradients of rows and weights are kept; the idea of Liger's and Apple's fused losses
(2411.09009), in plain torch. Gradients of weights are written where their table wants them
(``pieces.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from fourm.model.pieces import GradientSlot

CHUNK_LOGITS = 1 << 24  # logits made at once


def _scores(
    rows: Tensor, weight: Tensor, targets: Tensor, z_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (n, V), log-partitions (n, 1), and the sum of the losses of all rows."""
    logits = (rows @ weight.T).float()
    log_p = logits.log_softmax(-1)
    wanted = targets[:, None]
    found = log_p.gather(1, wanted)
    log_z = logits.gather(1, wanted) - found
    total = -found.sum()
    return log_p, log_z, total + z_weight * log_z.square().sum() if z_weight else total


def _logits_gradient(log_p: Tensor, log_z: Tensor, targets: Tensor, z_weight: float) -> Tensor:
    """The gradient of the summed losses for the logits (n, V), in the memory of ``log_p``."""
    gradient = log_p.exp_()
    if z_weight:  # d/dlogits of w * log_z^2 is 2 w log_z times the probabilities
        gradient *= 1.0 + 2.0 * z_weight * log_z
    ones = torch.ones_like(log_z)
    return gradient.scatter_add_(1, targets[:, None], ones.neg_())


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_weight: float,
        slot: GradientSlot | None,
    ) -> Tensor:
        log_p, log_z, total = _scores(rows, weight.to(rows.dtype), targets, z_weight)
        ctx.save_for_backward(rows, weight, targets, log_p, log_z)
        ctx.z_weight, ctx.slot = z_weight, slot
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, weight, targets, log_p, log_z = ctx.saved_tensors
        gradient = _logits_gradient(log_p, log_z, targets, ctx.z_weight).to(rows.dtype)
        weight_grad = _place(ctx.slot, weight, weight.dtype)
        scaled = rows * grads[0]
        if weight.dtype == rows.dtype:
            torch.mm(gradient.T, scaled, out=weight_grad)
        else:
            weight_grad.copy_(gradient.T @ scaled)
        return gradient @ weight.to(rows.dtype) * grads[0], weight_grad, None, None, None


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        z_weight: float,
        slot: GradientSlot | None,
        chunk: int,
    ) -> Tensor:
        head = weight.to(rows.dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        rows_grad = torch.empty_like(rows)
        weight_grad = _place(slot, weight, torch.float32).zero_()
        for start in range(0, len(rows), chunk):
            part, wanted = rows[start : start + chunk], targets[start : start + chunk]
            log_p, log_z, found = _scores(part, head, wanted, z_weight)
            total += found
            gradient = _logits_gradient(log_p, log_z, wanted, z_weight).to(rows.dtype)
            torch.mm(gradient, head, out=rows_grad[start : start + chunk])
            if rows.dtype == torch.float32:
                weight_grad.addmm_(gradient.T, part)
            else:
                weight_grad += gradient.T @ part
        ctx.rows_grad, ctx.weight_grad, ctx.dtype = rows_grad, weight_grad, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        # in place: these are made for one backward pass
        rows_grad, weight_grad = ctx.rows_grad.mul_(grads[0]), ctx.weight_grad.mul_(grads[0])
        ctx.rows_grad = ctx.weight_grad = None
        return rows_grad, weight_grad.to(ctx.dtype), None, None, None, None


def _place(slot: GradientSlot | None, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for the gradient of a weight: its place in its table, if that is free."""
    place = None if slot is None else slot.take()
    if place is not None and place.dtype == dtype:
        return place
    return torch.empty_like(weight, dtype=dtype)


def linear_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_weight: float = 0.0,
    chunk_logits: int = CHUNK_LOGITS,
    slot: GradientSlot | None = None,
) -> Tensor:
    """Sum of -log softmax(rows @ weight.T)[target], in nats.

    Args:
        rows: (n, D); weight: (V, D); targets: (n,) ids below V.
        z_weight: adds this times the square of each row's log-partition (z-loss).
        chunk_logits: most logits to hold at once; fewer in all are computed in one piece.
        slot: where the gradient of ``weight`` belongs, if it is a piece of a table.

    Returns:
        Scalar sum over rows, float32; 0 with zero gradients for no rows.
    """
    if torch.is_autocast_enabled(rows.device.type):
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows = rows.to(dtype)
    chunk = max(1, chunk_logits // weight.shape[0])
    learns = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    if not learns:
        parts = zip(rows.split(chunk), targets.split(chunk), strict=True)
        sums = [_scores(part, weight.to(part.dtype), wanted, z_weight)[2] for part, wanted in parts]
        return torch.stack(sums).sum()
    if len(rows) <= chunk:
        return _CrossEntropy.apply(rows, weight, targets, z_weight, slot)
    return _ChunkedCrossEntropy.apply(rows, weight, targets, z_weight, slot, chunk)


def soft_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    teacher_rows: Tensor,
    teacher_weight: Tensor,
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """Sum over rows of -sum_v p(v) log softmax(rows @ weight.T)[v], p the teacher's probabilities;
    in nats. Logits are made again for the gradient.

    Args:
        rows: (n, D); weight: (V, D); teacher_rows: (n, D'); teacher_weight: (V, D').
    """

    def of(part: Tensor, taught: Tensor) -> Tensor:
        wanted = (taught @ teacher_weight.to(taught.dtype).T).float().softmax(-1)
        log_p = (part @ weight.to(part.dtype).T).float().log_softmax(-1)
        return -(wanted * log_p).sum()

    chunk = max(1, chunk_logits // weight.shape[0])
    total = rows.new_zeros((), dtype=torch.float32)
    for part, taught in zip(rows.split(chunk), teacher_rows.split(chunk), strict=True):
        piece = checkpoint(of, part, taught, use_reentrant=False)
        assert isinstance(piece, Tensor)
        total = total + piece
    return total
