"""Attention that can be exported: rows padded by sample, masks that are tensors of the graph.

The other back ends lay out a batch on the host, from lengths that are known there; a graph with
dynamic sizes has only tensors. The model's own blocks run on these kernels, so that nothing of the
network is written twice. Shapes: B samples, N query rows, L keys, H heads of K numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.model.attention import PreparedLayout
from fourm.model.attention.kernels import Kernel
from fourm.model.cache import BlockCache, KeysValues, KeyValueCache
from fourm.model.positions import Rotation


@dataclass(frozen=True)
class MaskedKernel(Kernel):
    """Attention of padded rows to padded rows."""

    num: int  # B
    length: int  # N
    mask: Tensor  # (B, 1, N or 1, L) True = visible

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B N, H, K) queries; keys and values (B L, H, K) or (B, H, L, K) -> (B N, H, K)."""
        q, k, v = (by_sample(rows, self.num, self.length) for rows in (q, k, v))
        # softmax of nothing is NaN: who sees nothing attends everywhere and is zeroed after
        sees_any = self.mask.any(-1, keepdim=True)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask | ~sees_any)
        return rearrange(out * sees_any, "b h n k -> (b n) h k")


def masked_layout(
    num: int, length: int, mask: Tensor, turn: Rotation | None, itself: bool = True
) -> PreparedLayout:
    """Who sees whom among the rows of B padded samples; keys turn as the queries do, or not at all
    where they are another's rows, turned already.
    """
    return PreparedLayout(MaskedKernel(num, length, mask), turn, turn if itself else None)


def by_sample(rows: Tensor, num: int, length: int) -> Tensor:
    """(B L, H, K) -> (B, H, L, K); what has that shape stays. Both numbers are given: found by
    division, the other would be no plain size in a graph.
    """
    return rows if rows.ndim == 4 else rearrange(rows, "(b l) h k -> b h l k", b=num, l=length)


class Growing(KeyValueCache):
    """Keys and values of earlier rows (B, H, P, K) each, and of M more that come."""

    def __init__(self, keys: Tensor, values: Tensor, length: int) -> None:
        self.kept: KeysValues = keys, values
        self._length = length

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        pairs = zip(self.kept, make(), strict=True)
        sizes = self.kept[0].shape[0], self._length
        keys, values = (torch.cat([old, by_sample(new, *sizes)], 2) for old, new in pairs)
        self.kept = keys, values
        return self.kept


@dataclass(frozen=True)
class Given(KeyValueCache):
    """Keys and values of a context (B, H, L, K) each, made before."""

    kept: KeysValues

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        return self.kept


def block_cache(past: Tensor, memory: Tensor, length: int) -> tuple[BlockCache, Growing]:
    """The caches of one block from keys and values (2, B, H, P, K) of earlier rows and
    (2, B, H, L, K) of the context, for ``length`` new rows; and that of them which grows.
    """
    growing = Growing(past[0], past[1], length)
    return BlockCache(growing, Given((memory[0], memory[1]))), growing
