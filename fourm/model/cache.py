"""Keys and values that decoding keeps from step to step, and the attention that reads them.

A step pushes one row of each of R sequences through the same blocks that training uses. A block's
self-attention adds the row's key and value to those of the rows before (``Past``); its
cross-attention makes those of the context once (``Kept``). Both are padded by sequence, so they
come with kernels of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.model.attention.kernels import Kernel

KeysValues = tuple[Tensor, Tensor]


class KeyValueCache(Protocol):
    """What one attention layer attends to, from step to step."""

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        """All keys and values (R, H, L, K) of this step; ``make()`` gives those of new rows."""
        ...


@dataclass(frozen=True)
class BlockCache:
    """The caches of one block."""

    past: KeyValueCache
    context: KeyValueCache


class Past(KeyValueCache):
    """Keys and values of the rows so far, one more of each sequence at every step."""

    def __init__(self, num: int, num_heads: int, max_length: int, head_dim: int, like: Tensor):
        shape = (num, num_heads, max_length, head_dim)
        self._keys, self._values = like.new_zeros(shape), like.new_zeros(shape)
        self._length = 0

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        at = self._length
        self._keys[:, :, at], self._values[:, :, at] = make()
        self._length = at + 1
        return self._keys[:, :, : at + 1], self._values[:, :, : at + 1]


class Kept(KeyValueCache):
    """Keys and values of a context that stays the same, padded by sequence."""

    def __init__(self, slots: ContextSlots) -> None:
        self._slots = slots
        self._kept: KeysValues | None = None

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        if self._kept is None:
            keys, values = make()
            self._kept = self._slots.padded(keys), self._slots.padded(values)
        return self._kept


@dataclass(frozen=True)
class ContextSlots:
    """How packed rows of a context become (R, L) slots."""

    row: Tensor  # (R, L) packed row of each slot
    valid: Tensor  # (R, L) True where a slot holds a row

    @staticmethod
    def of(lengths: np.ndarray, device: torch.device) -> ContextSlots:
        """``lengths`` (R,) rows of each sequence's context; there is at least one slot."""
        counts = torch.as_tensor(lengths, device=device)
        slot = torch.arange(max(int(lengths.max(initial=0)), 1), device=device)
        valid = slot < counts[:, None]
        first = counts.cumsum(0) - counts
        return ContextSlots(torch.where(valid, first[:, None] + slot, 0), valid)

    def padded(self, rows: Tensor) -> Tensor:
        """(T, H, K) -> (R, H, L, K)."""
        if not len(rows):  # nothing was given at all: masked out, but there must be a row
            rows = rows.new_zeros(1, *rows.shape[1:])
        return rearrange(rows[self.row], "r n h k -> r h n k")

    def kernel(self) -> Kernel:
        """Attention to the padded context."""
        sees_any = self.valid.any(1, keepdim=True)
        # softmax of nothing is NaN: who sees nothing attends everywhere and is zeroed after
        mask = rearrange(self.valid | ~sees_any, "r n -> r 1 1 n")
        return _PaddedKernel(mask, rearrange(sees_any, "r 1 -> r 1 1 1"))


@dataclass(frozen=True)
class _PaddedKernel(Kernel):
    mask: Tensor | None = None  # (R, 1, 1, L) True = visible; None = all
    sees_any: Tensor | None = None  # (R, 1, 1, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(R, H, K) queries; (R, H, L, K) keys and values -> (R, H, K)."""
        out = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=self.mask)
        if self.sees_any is not None:
            out = out * self.sees_any
        return out[:, :, 0]


def past_kernel() -> Kernel:
    """Attention of one new row a sequence to all rows so far, itself included."""
    return _PaddedKernel()
