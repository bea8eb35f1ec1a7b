"""Cross-entropy of a linear head without keeping its logits.

Logits of all targets over a vocabulary are by far the largest tensor of a step (tokens x
vocabulary). Here rows are taken in chunks; the gradient of a chunk is made while its logits are at
hand, and only the gradients of rows and weights are kept. Same idea as Liger's and Apple's fused
losses (2411.09009), in plain torch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 1 << 24  # logits made at once


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, z_weight: float, chunk: int
    ) -> Tensor:
        total = rows.new_zeros((), dtype=torch.float32)
        rows_grad = torch.empty_like(rows)
        weight_grad = torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(rows), chunk):
            part, wanted = rows[start : start + chunk], targets[start : start + chunk]
            logits = (part @ weight.T).float()
            log_z = logits.logsumexp(-1)
            total += (log_z - logits.gather(1, wanted[:, None])[:, 0]).sum()
            gradient = (logits - log_z[:, None]).exp_()
            if z_weight:  # d/dlogits of w * log_z^2 is 2 w log_z times the probabilities
                total += z_weight * log_z.square().sum()
                gradient *= 1.0 + 2.0 * z_weight * log_z[:, None]
            gradient[torch.arange(len(wanted), device=wanted.device), wanted] -= 1.0
            gradient = gradient.to(rows.dtype)
            rows_grad[start : start + chunk] = gradient @ weight
            weight_grad += (gradient.T @ part).float()
        ctx.save_for_backward(rows_grad, weight_grad.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows_grad, weight_grad = ctx.saved_tensors
        return rows_grad * grads[0], weight_grad * grads[0], None, None, None


def linear_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    z_weight: float = 0.0,
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """Sum of -log softmax(rows @ weight.T)[target], in nats.

    Args:
        rows: (n, D); weight: (V, D); targets: (n,) ids below V.
        z_weight: adds this times the square of each row's log-partition (z-loss).
        chunk_logits: most logits to hold at once; fewer in all are computed in one piece.

    Returns:
        Scalar sum over rows, float32; 0 with zero gradients for no rows.
    """
    if torch.is_autocast_enabled(rows.device.type):
        dtype = torch.get_autocast_dtype(rows.device.type)
        rows, weight = rows.to(dtype), weight.to(dtype)
    if rows.shape[0] * weight.shape[0] > chunk_logits:
        chunk = max(1, chunk_logits // weight.shape[0])
        return _ChunkedCrossEntropy.apply(rows, weight, targets, z_weight, chunk)
    logits = (rows @ weight.T).float()
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return loss + z_weight * logits.logsumexp(-1).square().sum() if z_weight else loss


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
