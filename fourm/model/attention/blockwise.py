"""The CPU's back end for ragged blocks: one call a block, on slices of the packed rows.

Nothing is padded, masked or copied but the outputs. A call costs some 90 microseconds with its
gradient, so that many tiny blocks are cheaper padded together (``worth_it``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.batches.layout import Layout
from fourm.model.attention.kernels import Kernel

_CALL = 1000  # pairs of rows whose attention costs as much as a call does


@dataclass(frozen=True)
class BlockwiseKernel(Kernel):
    """Blocks one after another."""

    q_lengths: list[int]
    k_lengths: list[int]
    causal: list[bool]

    @staticmethod
    def of(layout: Layout) -> BlockwiseKernel:
        """The kernel of a layout that has some query and some key."""
        return BlockwiseKernel(
            layout.q_lengths.tolist(), layout.k_lengths.tolist(), layout.causal.tolist()
        )

    @torch.compiler.disable  # a graph for each batch's lengths would be compiled
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = q.split(self.q_lengths), k.split(self.k_lengths), v.split(self.k_lengths)
        return torch.cat([_attend(*rows) for rows in zip(*parts, self.causal, strict=True)])


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """One block: (n, H, K) queries, (m, H, K) keys and values -> (n, H, K); zeros for no keys."""
    if not len(q) or not len(k):
        return q * 0.0 + (k.sum() + v.sum()) * 0.0
    q, k, v = (rearrange(rows, "n h k -> 1 h n k") for rows in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return rearrange(out, "1 h n k -> n h k")


def worth_it(layout: Layout) -> bool:
    """Whether calls for each block cost less than one over all samples, padded."""
    by_sample = (
        np.bincount(layout.group, weights=lengths, minlength=layout.num_groups)
        for lengths in (layout.q_lengths, layout.k_lengths)
    )
    q, k = by_sample
    padded = layout.num_groups * q.max(initial=0) * k.max(initial=0)
    return (layout.q_lengths * layout.k_lengths + _CALL).sum() < padded
