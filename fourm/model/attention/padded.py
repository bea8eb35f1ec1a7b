"""The reference back end: rows are padded by sample and masked. Any device, any dtype.

Where all samples have the same length nothing is padded, and where each is one block nothing is
masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.batches.layout import Layout
from fourm.model.attention.kernels import EmptyKernel, Kernel
from fourm.model.attention.rows import place_rows, take_rows
from fourm.numbers.ragged import starts


@dataclass(frozen=True)
class _Padding:
    """How T packed rows become (B, L) slots and back."""

    num: int  # B
    slots: Tensor | None  # (T,) slot of each packed row; None where all samples are L rows long
    length: int  # L

    def pad(self, rows: Tensor) -> Tensor:
        """(T, H, K) -> (B, H, L, K)."""
        if self.slots is not None:
            rows = place_rows(rows, self.slots, self.num * self.length)
        return rearrange(rows, "(b l) h k -> b h l k", b=self.num)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, H, L, K) -> (T, H, K)."""
        flat = rearrange(padded, "b h l k -> (b l) h k")
        return flat if self.slots is None else take_rows(flat, self.slots)


@dataclass(frozen=True)
class PaddedKernel(Kernel):
    """One call for all samples."""

    queries: _Padding
    keys: _Padding
    mask: Tensor | None  # (B, 1, L_q, L_k) True = visible
    sees_any: Tensor | None  # (B, 1, L_q, 1) False where a query sees nothing; None = all see some

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self.queries.pad(q), self.keys.pad(k), self.keys.pad(v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        if self.sees_any is not None:
            out = out.masked_fill(~self.sees_any, 0.0)
        return self.queries.unpad(out)


def prepare_padded(layout: Layout) -> Kernel:
    """The kernel of a layout, on the host."""
    if layout.is_empty:
        return EmptyKernel()
    q_slots, k_slots = _Slots.of(layout, layout.q_lengths), _Slots.of(layout, layout.k_lengths)
    queries, keys = q_slots.padding(), k_slots.padding()
    one_block_each = len(layout.group) == layout.num_groups and not layout.causal.any()
    if one_block_each and queries.slots is None and keys.slots is None:
        return PaddedKernel(queries, keys, None, None)
    # a slot without a row is in block -1 of queries and -2 of keys: they never meet
    q_block, k_block = q_slots.block(-1), k_slots.block(-2)
    mask = q_block[:, :, None] == k_block[:, None, :]
    if layout.causal.any():
        free = ~layout.causal[q_block]
        mask &= free[:, :, None] | (k_slots.row[:, None, :] <= q_slots.row[:, :, None])
    # softmax of nothing is NaN: a row with nothing to see attends everywhere and is zeroed after
    sees_any = mask.any(-1, keepdims=True)
    mask |= ~sees_any
    none_is_blind = sees_any[q_slots.valid].all()
    return PaddedKernel(
        queries,
        keys,
        torch.from_numpy(mask[:, None]),
        None if none_is_blind else torch.from_numpy(sees_any[:, None]),
    )


@dataclass(frozen=True)
class _Slots:
    """The padded slots of one side of a layout, on the host."""

    row: np.ndarray  # (B, L) packed row of each slot, 0 where there is none
    valid: np.ndarray  # (B, L) True where a slot holds a row
    lengths: np.ndarray  # (S,) rows of each block

    @staticmethod
    def of(layout: Layout, lengths: np.ndarray) -> _Slots:
        """``lengths`` (S,) rows of each block of the layout on this side."""
        num = layout.num_groups
        rows = np.bincount(layout.group, weights=lengths, minlength=num).astype(np.int64)
        slot = np.arange(int(rows.max(initial=0)))
        valid = slot < rows[:, None]
        return _Slots(np.where(valid, starts(rows)[:, None] + slot, 0), valid, lengths)

    def block(self, none: int) -> np.ndarray:
        """Block of each slot's row (B, L), ``none`` where there is no row."""
        of_row = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.where(self.valid, of_row[self.row], none)

    def padding(self) -> _Padding:
        num, length = self.valid.shape
        slots = None if self.valid.all() else torch.from_numpy(np.flatnonzero(self.valid))
        return _Padding(num, slots, length)
