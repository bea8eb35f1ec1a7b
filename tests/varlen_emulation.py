"""``torch.nn.attention.varlen`` on any device: the same calls, block by block.

The real one has no kernel for CPUs. Like it, this is one opaque operator to ``torch.compile``, with
a backward operator of its own; and it refuses what the real one refuses or leaves undefined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def varlen_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """(T_q, H, K) queries, (T_k, H, K) keys and values -> (T_q, H, K)."""
    assert q.dtype == k.dtype == v.dtype, "all must have one type"
    assert window_size in ((-1, -1), (-1, 0))
    return _forward(q, k, v, cu_q, cu_k, max_q, max_k, window_size == (-1, 0))


@torch.library.custom_op("fourm_tests::varlen", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
) -> Tensor:
    q_lengths, k_lengths = cu_q.diff().tolist(), cu_k.diff().tolist()
    assert sum(q_lengths) == len(q) and sum(k_lengths) == len(k), "some rows are in no block"
    assert max(q_lengths) <= max_q and max(k_lengths) <= max_k
    parts = q.split(q_lengths), k.split(k_lengths), v.split(k_lengths)
    blocks = zip(*parts, strict=True)
    return torch.cat([torch.einsum("hnm,mhk->nhk", _share(q, k, causal), v) for q, k, v in blocks])


def _share(q: Tensor, k: Tensor, causal: bool) -> Tensor:
    """How much each query of a block takes of each key, (H, n, m)."""
    scores = torch.einsum("nhk,mhk->hnm", q, k) / q.shape[-1] ** 0.5
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)


@torch.library.custom_op("fourm_tests::varlen_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
) -> list[Tensor]:
    q_lengths, k_lengths = cu_q.diff().tolist(), cu_k.diff().tolist()
    parts = (
        t.split(lengths)
        for t, lengths in ((gradient, q_lengths), (q, q_lengths), (k, k_lengths), (v, k_lengths))
    )
    found = [_block_backward(*rows, causal) for rows in zip(*parts, strict=True)]
    return [torch.cat(of_all) for of_all in zip(*found, strict=True)]


def _block_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    share = _share(q, k, causal)
    of_share = torch.einsum("nhk,mhk->hnm", gradient, v)
    of_scores = share * (of_share - (share * of_share).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
    return (
        torch.einsum("hnm,mhk->nhk", of_scores, k),
        torch.einsum("hnm,nhk->mhk", of_scores, q),
        torch.einsum("hnm,nhk->mhk", share, gradient),
    )


def _saved(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.others = inputs[5:]


def _gradients(ctx: Any, gradient: Tensor) -> tuple:
    return (*_backward(gradient, *ctx.saved_tensors, *ctx.others), *(None,) * 5)


_forward.register_fake(lambda q, *others: torch.empty_like(q))
_backward.register_fake(lambda gradient, *others: [torch.empty_like(t) for t in others[:3]])
_forward.register_autograd(_gradients, setup_context=_saved)
