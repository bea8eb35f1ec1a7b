"""The CUDA back ends: attention of variable length, without padding.

``varlen`` is ``torch.nn.attention.varlen`` (half precision), ``xformers`` is
``memory_efficient_attention`` with ``BlockDiagonalMask``. Both take one causal flag a call, so the
causal blocks of a layout and the others are two parts.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.attention.kernels import EmptyKernel, Kernel
from fourm.layout import Layout
from fourm.ragged import rows_of_blocks, starts


@dataclass(frozen=True)
class _Part:
    """The blocks of one kind (causal or not), as contiguous rows."""

    causal: bool
    q_rows: Tensor | None  # packed rows of these blocks; None = all rows in order
    k_rows: Tensor | None
    cu_q: Tensor  # (S' + 1,) int32, rows before each block
    cu_k: Tensor
    max_q: int
    max_k: int
    bias: Any  # xformers' mask object


@dataclass(frozen=True)
class VarlenKernel(Kernel):
    """Blocks in one or two parts, each in one call of the library ``name``."""

    name: str
    parts: tuple[_Part, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first = self.parts[0]
        if len(self.parts) == 1 and first.q_rows is None:
            return _run(self.name, q, k, v, first)
        out = torch.zeros_like(q)
        for part in self.parts:
            assert part.q_rows is not None and part.k_rows is not None
            found = _run(self.name, q[part.q_rows], k[part.k_rows], v[part.k_rows], part)
            out = out.index_copy(0, part.q_rows, found)
        return out


def _run(name: str, q: Tensor, k: Tensor, v: Tensor, part: _Part) -> Tensor:
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
    """xformers' mask object for blocks of these lengths (S,) (``materialize`` shows it on any
    device).
    """
    from xformers.ops import fmha

    kind = fmha.attn_bias.BlockDiagonalMask
    bias = kind.from_seqlens(q_lengths.tolist(), k_lengths.tolist())
    return bias.make_causal() if causal else bias


def prepare_varlen(layout: Layout, device: torch.device, name: str) -> Kernel:
    """The kernel of a layout on a device; ``name`` is ``varlen`` or ``xformers``."""
    flags = [flag for flag in (False, True) if (layout.causal == flag).any()]
    parts = [_part(layout, flag, len(flags) == 1, device, name) for flag in flags]
    kept = tuple(part for part in parts if part is not None)
    return VarlenKernel(name, kept) if kept else EmptyKernel()


def _part(
    layout: Layout, causal: bool, alone: bool, device: torch.device, name: str
) -> _Part | None:
    # a block without keys has no softmax: its queries keep the zeros they start with
    pick = (layout.causal == causal) & (layout.q_lengths > 0) & (layout.k_lengths > 0)
    q_lengths, k_lengths = layout.q_lengths[pick], layout.k_lengths[pick]
    if not len(q_lengths):
        return None
    in_order = alone and (pick | ((layout.q_lengths == 0) & (layout.k_lengths == 0))).all()

    def rows(lengths: np.ndarray) -> Tensor:
        taken = rows_of_blocks(starts(lengths)[pick], lengths[pick])
        return torch.from_numpy(taken).to(device)

    return _Part(
        causal=causal,
        q_rows=None if in_order else rows(layout.q_lengths),
        k_rows=None if in_order else rows(layout.k_lengths),
        cu_q=_rows_before(q_lengths, device),
        cu_k=_rows_before(k_lengths, device),
        max_q=int(q_lengths.max()),
        max_k=int(k_lengths.max()),
        bias=xformers_bias(q_lengths, k_lengths, causal) if name == "xformers" else None,
    )


def _rows_before(lengths: np.ndarray, device: torch.device) -> Tensor:
    before = np.concatenate([[0], np.cumsum(lengths)])
    return torch.from_numpy(before.astype(np.int32)).to(device)
