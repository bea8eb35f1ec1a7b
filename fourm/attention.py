"""Attention over packed rows: one function, a block-diagonal layout, three back ends.

A batch is a flat list of rows (see ``batch.py``). Encoder self-attention is block-diagonal over
samples, decoder self-attention over a sample's target modalities (causal in sequences),
cross-attention pairs a sample's target rows with its input rows. All three are a ``Layout``: S
blocks, each with a number of query rows, a number of key rows and a causal flag.

* ``sdpa`` is the reference: rows are padded per sample and masked; any device, any dtype. Where all
  samples have the same length nothing is padded or masked.
* ``varlen`` is ``torch.nn.attention.varlen`` (CUDA, half precision): no padding at all.
* ``xformers`` is ``memory_efficient_attention`` with ``BlockDiagonalMask`` (CUDA).

``auto`` takes ``varlen`` where it runs, else ``sdpa``. A back end asked for by name that cannot run
is announced once.
"""

from __future__ import annotations

import importlib.util
import inspect
import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.errors import UserError

BACKENDS = ("auto", "sdpa", "varlen", "xformers")
_BUCKETS = 4  # CPU: groups of samples that are padded together
_WORTH_SORTING = 0.75  # CPU: sort into buckets if that leaves at most this share of the padded work
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """S blocks of rows; queries of a block see the keys of the same block only.

    Lengths live on the host (numpy), so that no back end has to ask the device for them.
    """

    q_lengths: np.ndarray  # (S,) query rows of each block
    k_lengths: np.ndarray  # (S,) key rows of each block
    group: np.ndarray  # (S,) sample of each block, ascending: the reference path pads by sample
    num_groups: int  # B, samples (some may have no block)
    # (S,) True: row i of the block sees rows 0..i (query and key rows are the same rows)
    causal: np.ndarray

    @staticmethod
    def per_sample(q_lengths: np.ndarray, k_lengths: np.ndarray | None = None) -> Layout:
        """One bidirectional block for each sample; ``q_lengths`` (B,), ``k_lengths`` (B,) or the
        same.
        """
        q_lengths = np.asarray(q_lengths)
        num = len(q_lengths)
        k_lengths = q_lengths if k_lengths is None else np.asarray(k_lengths)
        return Layout(q_lengths, k_lengths, np.arange(num), num, np.zeros(num, dtype=bool))

    @staticmethod
    def segments(
        lengths: np.ndarray, group: np.ndarray, num_groups: int, causal: np.ndarray
    ) -> Layout:
        """Self-attention inside each segment; ``group`` (S,) is the sample a segment belongs to."""
        return Layout(
            np.asarray(lengths),
            np.asarray(lengths),
            np.asarray(group),
            num_groups,
            np.asarray(causal, dtype=bool),
        )

    def on(self, device: torch.device, backend: str, dtype: torch.dtype) -> PreparedLayout:
        """The tensors that the chosen back end needs, made once a batch and shared by all
        layers.
        """
        name = resolve_backend(backend, device.type, dtype)
        if name == "sdpa":
            return _prepare_sdpa(self, device)
        return _prepare_varlen(self, device, name)


@cache
def resolve_backend(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """The back end that will run; says once why it is not the one asked for. Raises UserError for
    an unknown name.
    """
    if backend not in BACKENDS:
        raise UserError(f"attention back end {backend!r} is not one of {', '.join(BACKENDS)}")
    half = dtype in (torch.float16, torch.bfloat16)
    if backend == "sdpa":
        return "sdpa"
    if backend == "xformers":
        if importlib.util.find_spec("xformers") is None:
            reason = "xformers is not installed (pip install 'fourm[gpu]')"
        elif device_type != "cuda":
            reason = f"it has no kernel for {device_type}"
        else:
            return "xformers"
    else:
        if importlib.util.find_spec("torch.nn.attention.varlen") is None:
            reason = "this version of torch does not have it"
        elif device_type != "cuda":
            reason = f"it has no kernel for {device_type}"
        elif not half:
            reason = f"it runs in half precision, not {dtype}"
        else:
            return "varlen"
    if backend != "auto":
        _log.warning(
            "attention back end %s unavailable: %s; using sdpa with masks", backend, reason
        )
    return "sdpa"


class PreparedLayout(Protocol):
    """A layout's tensors on a device; ``attend(q, k, v)`` on (T, H, K) rows gives (T_q, H, K)."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


def attention(q: Tensor, k: Tensor, v: Tensor, layout: PreparedLayout) -> Tensor:
    """Scaled dot-product attention of packed rows.

    Args:
        q: (T_q, H, K) queries; k, v: (T_k, H, K) keys and values.
        layout: which rows see which, from ``Layout.on``.

    Returns:
        (T_q, H, K). A query whose block has no keys gets zeros.
    """
    return layout.attend(q, k, v)


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
    """``rows[index]`` for an index without repeats."""
    return _TakeRows.apply(rows, index)


def place_rows(rows: Tensor, index: Tensor, num: int) -> Tensor:
    """``num`` rows, zero but for ``rows`` at an index without repeats."""
    return _PlaceRows.apply(rows, index, num)


# ---- reference: padded, masked -------------------------------------------------------------------


@dataclass(frozen=True)
class _Padding:
    """How T packed rows become (B, L) slots and back; no index where all samples are L rows
    long.
    """

    num: int
    length: int
    slots: Tensor | None  # (T,) slot of each packed row

    def pad(self, rows: Tensor) -> Tensor:
        if self.slots is not None:
            rows = place_rows(rows, self.slots, self.num * self.length)
        return rearrange(rows, "(b l) h k -> b h l k", b=self.num)

    def unpad(self, padded: Tensor) -> Tensor:
        flat = rearrange(padded, "b h l k -> (b l) h k")
        return flat if self.slots is None else take_rows(flat, self.slots)


@dataclass(frozen=True)
class _PaddedLayout(PreparedLayout):
    queries: _Padding
    keys: _Padding
    mask: Tensor | None  # (B, 1, L_q, L_k) True = visible
    sees_any: Tensor | None  # (B, 1, L_q, 1) False where a query sees nothing

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(
            self.queries.pad(q), self.keys.pad(k), self.keys.pad(v), attn_mask=self.mask
        )
        if self.sees_any is not None:
            out = out.masked_fill(~self.sees_any, 0.0)
        return self.queries.unpad(out)


class _EmptyLayout(PreparedLayout):
    """No query or no key at all in the batch."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q * 0.0 + (k.sum() + v.sum()) * 0.0


def _sample_lengths(lengths: np.ndarray, layout: Layout) -> np.ndarray:
    return np.bincount(layout.group, weights=lengths, minlength=layout.num_groups).astype(np.int64)


def _padding(lengths: np.ndarray, device: torch.device) -> tuple[_Padding, np.ndarray, np.ndarray]:
    """Padding for samples of ``lengths`` (B,), with the packed row of each slot (B, L) and which
    slots hold one (B, L).
    """
    num, longest = len(lengths), int(lengths.max(initial=0))
    slot = np.arange(longest)
    valid = slot < lengths[:, None]
    row = np.where(valid, (np.cumsum(lengths) - lengths)[:, None] + slot, 0)
    if valid.all():
        return _Padding(num, longest, None), row, valid
    return _Padding(num, longest, torch.from_numpy(np.flatnonzero(valid)).to(device)), row, valid


@dataclass(frozen=True)
class _BucketedLayout(PreparedLayout):
    """Samples of like lengths padded together: on a CPU the padding of a ragged batch costs more
    than sorting its rows.
    """

    q_order: Tensor  # (T_q,) packed rows, bucket by bucket
    k_order: Tensor
    q_place: Tensor  # (T_q,) inverse of q_order
    sizes: tuple[tuple[int, int], ...]  # query and key rows of each bucket
    buckets: tuple[PreparedLayout, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q_parts = take_rows(q, self.q_order).split([n for n, _ in self.sizes])
        k_parts = take_rows(k, self.k_order).split([n for _, n in self.sizes])
        v_parts = take_rows(v, self.k_order).split([n for _, n in self.sizes])
        out = [
            b.attend(*rows)
            for b, *rows in zip(self.buckets, q_parts, k_parts, v_parts, strict=True)
        ]
        return take_rows(torch.cat(out), self.q_place)


def _prepare_sdpa(layout: Layout, device: torch.device) -> PreparedLayout:
    if not layout.q_lengths.sum() or not layout.k_lengths.sum():
        return _EmptyLayout()
    if device.type == "cpu" and layout.num_groups >= 2 * _BUCKETS:
        buckets = _bucketed(layout)
        if buckets is not None:
            return _prepare_buckets(layout, buckets, device)
    return _prepare_padded(layout, device)


def _bucketed(layout: Layout) -> list[np.ndarray] | None:
    """Samples (numbers) of each bucket, or None where one padding for all costs little more."""
    q, k = _sample_lengths(layout.q_lengths, layout), _sample_lengths(layout.k_lengths, layout)
    buckets = np.array_split(np.argsort(q * k, kind="stable"), _BUCKETS)
    cost = sum(len(b) * q[b].max() * k[b].max() for b in buckets)
    return (
        [np.sort(b) for b in buckets]
        if cost < _WORTH_SORTING * layout.num_groups * q.max() * k.max()
        else None
    )


def _prepare_buckets(
    layout: Layout, buckets: list[np.ndarray], device: torch.device
) -> PreparedLayout:
    q_start, k_start = (
        np.cumsum(layout.q_lengths) - layout.q_lengths,
        np.cumsum(layout.k_lengths) - layout.k_lengths,
    )
    q_rows, k_rows, prepared = [], [], []
    for samples in buckets:
        pick = np.isin(layout.group, samples)
        part = Layout(
            layout.q_lengths[pick],
            layout.k_lengths[pick],
            np.searchsorted(samples, layout.group[pick]),
            len(samples),
            layout.causal[pick],
        )
        q_rows.append(_rows(q_start[pick], part.q_lengths))
        k_rows.append(_rows(k_start[pick], part.k_lengths))
        empty = not part.q_lengths.sum() or not part.k_lengths.sum()
        prepared.append(_EmptyLayout() if empty else _prepare_padded(part, device))
    order = np.concatenate(q_rows)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    q_order, k_order, q_place = (
        torch.from_numpy(a).to(device) for a in (order, np.concatenate(k_rows), place)
    )
    sizes = tuple((len(a), len(b)) for a, b in zip(q_rows, k_rows, strict=True))
    return _BucketedLayout(q_order, k_order, q_place, sizes, tuple(prepared))


def _prepare_padded(layout: Layout, device: torch.device) -> PreparedLayout:
    queries, q_row, q_valid = _padding(_sample_lengths(layout.q_lengths, layout), device)
    keys, k_row, k_valid = _padding(_sample_lengths(layout.k_lengths, layout), device)
    one_block_each = len(layout.group) == layout.num_groups and not layout.causal.any()
    if one_block_each and queries.slots is None and keys.slots is None:
        return _PaddedLayout(queries, keys, None, None)
    q_block = np.repeat(np.arange(len(layout.group)), layout.q_lengths)
    k_block = np.repeat(np.arange(len(layout.group)), layout.k_lengths)
    q_at, k_at = torch.from_numpy(q_row).to(device), torch.from_numpy(k_row).to(device)
    mask = (
        (torch.from_numpy(q_valid).to(device)[:, :, None])
        & (torch.from_numpy(k_valid).to(device)[:, None, :])
    )
    if not one_block_each:
        mask &= (
            torch.from_numpy(q_block).to(device)[q_at][:, :, None]
            == torch.from_numpy(k_block).to(device)[k_at][:, None]
        )
    if layout.causal.any():
        free = torch.from_numpy(~layout.causal[q_block]).to(device)[q_at]
        mask &= free[:, :, None] | (k_at[:, None, :] <= q_at[:, :, None])
    sees_any = mask.any(-1, keepdim=True)
    # a row with nothing to see attends everywhere and is zeroed afterwards: softmax of nothing is
    # NaN
    mask |= ~sees_any
    return _PaddedLayout(queries, keys, mask[:, None], sees_any[:, None])


# ---- CUDA: variable length -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """The blocks of one kind (causal or not), as contiguous rows."""

    causal: bool
    q_rows: Tensor | None  # packed rows of these blocks; None = all rows in order
    k_rows: Tensor | None
    cu_q: Tensor  # (S' + 1,) int32
    cu_k: Tensor
    max_q: int
    max_k: int
    bias: Any  # xformers' mask object


@dataclass(frozen=True)
class _VarlenLayout(PreparedLayout):
    name: str
    parts: tuple[_Part, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        whole = self.parts[0]
        if len(self.parts) == 1 and whole.q_rows is None:
            return _run_varlen(self.name, q, k, v, whole)
        out = torch.zeros_like(q)
        for part in self.parts:
            assert part.q_rows is not None and part.k_rows is not None
            out = out.index_copy(
                0,
                part.q_rows,
                _run_varlen(self.name, q[part.q_rows], k[part.k_rows], v[part.k_rows], part),
            )
        return out


def _run_varlen(name: str, q: Tensor, k: Tensor, v: Tensor, part: _Part) -> Tensor:
    if name == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(q[None], k[None], v[None], attn_bias=part.bias)[0]
    from torch.nn.attention.varlen import varlen_attn

    causal: dict[str, Any] = {"window_size": (-1, 0) if part.causal else (-1, -1)}
    if "window_size" not in inspect.signature(varlen_attn).parameters:  # torch before 2.12
        causal = {"is_causal": part.causal}
    out = varlen_attn(q, k, v, part.cu_q, part.cu_k, part.max_q, part.max_k, **causal)
    assert isinstance(out, Tensor)
    return out


def xformers_bias(q_lengths: np.ndarray, k_lengths: np.ndarray, causal: bool) -> Any:
    """xformers' mask object for blocks of these lengths (``materialize`` shows it on any
    device).
    """
    from xformers.ops import fmha

    kind = fmha.attn_bias.BlockDiagonalMask
    bias = kind.from_seqlens(q_lengths.tolist(), k_lengths.tolist())
    return bias.make_causal() if causal else bias


def _prepare_varlen(layout: Layout, device: torch.device, name: str) -> PreparedLayout:
    if not layout.q_lengths.sum() or not layout.k_lengths.sum():
        return _EmptyLayout()
    parts = []
    q_start, k_start = (
        np.cumsum(layout.q_lengths) - layout.q_lengths,
        np.cumsum(layout.k_lengths) - layout.k_lengths,
    )
    kinds = [flag for flag in (False, True) if (layout.causal == flag).any()]
    for causal in kinds:
        # a block without keys has no softmax: its queries keep the zeros they start with
        pick = (layout.causal == causal) & (layout.q_lengths > 0) & (layout.k_lengths > 0)
        q_lengths, k_lengths = layout.q_lengths[pick], layout.k_lengths[pick]
        if not len(q_lengths):
            continue
        whole = (
            len(kinds) == 1 and (pick | ((layout.q_lengths == 0) & (layout.k_lengths == 0))).all()
        )
        bias = xformers_bias(q_lengths, k_lengths, causal) if name == "xformers" else None
        parts.append(
            _Part(
                causal,
                None if whole else torch.from_numpy(_rows(q_start[pick], q_lengths)).to(device),
                None if whole else torch.from_numpy(_rows(k_start[pick], k_lengths)).to(device),
                _cumulative(q_lengths, device),
                _cumulative(k_lengths, device),
                int(q_lengths.max()),
                int(k_lengths.max()),
                bias,
            )
        )
    return _VarlenLayout(name, tuple(parts)) if parts else _EmptyLayout()


def _rows(start: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Row numbers of blocks that begin at ``start`` and are ``lengths`` long, one after another."""
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(start, lengths) + offset


def _cumulative(lengths: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)).to(device)
