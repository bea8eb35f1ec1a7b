"""The reference back end: rows are padded by sample and masked. Any device, any dtype.

Where all samples have the same length nothing is padded or masked. On a CPU, samples of like
lengths are padded together: the padding of a ragged batch costs more there than sorting its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.attention.kernels import EmptyKernel, Kernel
from fourm.attention.rows import place_rows, take_rows
from fourm.layout import Layout
from fourm.ragged import rows_of_blocks, starts

_BUCKETS = 4  # groups of samples that are padded together
_WORTH_SORTING = 0.75  # sort into buckets if that leaves at most this share of the padded work


def prepare_padded(layout: Layout, device: torch.device) -> Kernel:
    """The kernel of a layout on a device."""
    if layout.is_empty:
        return EmptyKernel()
    if device.type == "cpu" and layout.num_groups >= 2 * _BUCKETS:
        buckets = _buckets_of_like_lengths(layout)
        if buckets is not None:
            return _prepare_buckets(layout, buckets, device)
    return _prepare_masked(layout, device)


# ---- one padding for all samples -----------------------------------------------------------------


@dataclass(frozen=True)
class _Padding:
    """How T packed rows become (B, L) slots and back."""

    num: int  # B
    length: int  # L
    slots: Tensor | None  # (T,) slot of each packed row; None where all samples are L rows long

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
class _MaskedKernel(Kernel):
    queries: _Padding
    keys: _Padding
    mask: Tensor | None  # (B, 1, L_q, L_k) True = visible
    sees_any: Tensor | None  # (B, 1, L_q, 1) False where a query sees nothing

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = self.queries.pad(q), self.keys.pad(k), self.keys.pad(v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        if self.sees_any is not None:
            out = out.masked_fill(~self.sees_any, 0.0)
        return self.queries.unpad(out)


@dataclass(frozen=True)
class _Slots:
    """The padded slots of one side of a layout, on the host."""

    row: np.ndarray  # (B, L) packed row of each slot, 0 where there is none
    valid: np.ndarray  # (B, L) True where a slot holds a row

    @staticmethod
    def of(lengths: np.ndarray) -> _Slots:
        """``lengths`` (B,) rows of each sample."""
        slot = np.arange(int(lengths.max(initial=0)))
        valid = slot < lengths[:, None]
        return _Slots(np.where(valid, starts(lengths)[:, None] + slot, 0), valid)

    def padding(self, device: torch.device) -> _Padding:
        num, length = self.valid.shape
        if self.valid.all():
            return _Padding(num, length, None)
        return _Padding(num, length, torch.from_numpy(np.flatnonzero(self.valid)).to(device))


def _prepare_masked(layout: Layout, device: torch.device) -> Kernel:
    if layout.is_empty:
        return EmptyKernel()
    q_slots = _Slots.of(_sample_lengths(layout.q_lengths, layout))
    k_slots = _Slots.of(_sample_lengths(layout.k_lengths, layout))
    queries, keys = q_slots.padding(device), k_slots.padding(device)
    one_block_each = len(layout.group) == layout.num_groups and not layout.causal.any()
    if one_block_each and queries.slots is None and keys.slots is None:
        return _MaskedKernel(queries, keys, None, None)

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    q_row, k_row = on_device(q_slots.row), on_device(k_slots.row)
    mask = on_device(q_slots.valid)[:, :, None] & on_device(k_slots.valid)[:, None, :]
    q_block = np.repeat(np.arange(len(layout.group)), layout.q_lengths)
    k_block = np.repeat(np.arange(len(layout.group)), layout.k_lengths)
    if not one_block_each:
        mask &= on_device(q_block)[q_row][:, :, None] == on_device(k_block)[k_row][:, None]
    if layout.causal.any():
        free = on_device(~layout.causal[q_block])[q_row]
        mask &= free[:, :, None] | (k_row[:, None, :] <= q_row[:, :, None])
    # softmax of nothing is NaN: a row with nothing to see attends everywhere and is zeroed after
    sees_any = mask.any(-1, keepdim=True)
    mask |= ~sees_any
    return _MaskedKernel(queries, keys, mask[:, None], sees_any[:, None])


def _sample_lengths(lengths: np.ndarray, layout: Layout) -> np.ndarray:
    """Rows of each sample (B,) from those of its blocks (S,)."""
    return np.bincount(layout.group, weights=lengths, minlength=layout.num_groups).astype(np.int64)


# ---- samples of like lengths together ------------------------------------------------------------


@dataclass(frozen=True)
class _BucketedKernel(Kernel):
    q_order: Tensor  # (T_q,) packed rows, bucket by bucket
    k_order: Tensor  # (T_k,)
    q_place: Tensor  # (T_q,) inverse of q_order
    q_sizes: list[int]  # rows of each bucket
    k_sizes: list[int]
    buckets: tuple[Kernel, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q_parts = take_rows(q, self.q_order).split(self.q_sizes)
        k_parts = take_rows(k, self.k_order).split(self.k_sizes)
        v_parts = take_rows(v, self.k_order).split(self.k_sizes)
        parts = zip(self.buckets, q_parts, k_parts, v_parts, strict=True)
        out = torch.cat([bucket.attend(*rows) for bucket, *rows in parts])
        return take_rows(out, self.q_place)


def _buckets_of_like_lengths(layout: Layout) -> list[np.ndarray] | None:
    """Samples (numbers) of each bucket, or None where one padding for all costs little more."""
    q, k = _sample_lengths(layout.q_lengths, layout), _sample_lengths(layout.k_lengths, layout)
    buckets = np.array_split(np.argsort(q * k, kind="stable"), _BUCKETS)
    cost = sum(len(b) * q[b].max() * k[b].max() for b in buckets)
    cost_of_one = layout.num_groups * q.max() * k.max()
    return [np.sort(b) for b in buckets] if cost < _WORTH_SORTING * cost_of_one else None


def _prepare_buckets(layout: Layout, buckets: list[np.ndarray], device: torch.device) -> Kernel:
    q_start, k_start = starts(layout.q_lengths), starts(layout.k_lengths)
    q_rows, k_rows, kernels = [], [], []
    for samples in buckets:
        pick = np.isin(layout.group, samples)
        part = Layout(
            layout.q_lengths[pick],
            layout.k_lengths[pick],
            np.searchsorted(samples, layout.group[pick]),
            len(samples),
            layout.causal[pick],
        )
        q_rows.append(rows_of_blocks(q_start[pick], part.q_lengths))
        k_rows.append(rows_of_blocks(k_start[pick], part.k_lengths))
        kernels.append(_prepare_masked(part, device))
    q_order, k_order = np.concatenate(q_rows), np.concatenate(k_rows)
    q_place = np.empty_like(q_order)
    q_place[q_order] = np.arange(len(q_order))
    q_index, k_index, q_back = (
        torch.from_numpy(index).to(device) for index in (q_order, k_order, q_place)
    )
    sizes = [len(rows) for rows in q_rows], [len(rows) for rows in k_rows]
    return _BucketedKernel(q_index, k_index, q_back, *sizes, tuple(kernels))
