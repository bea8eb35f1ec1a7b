"""The CUDA back ends: attention of variable length, without padding.

``varlen`` is ``torch.nn.attention.varlen`` (half precision), ``xformers`` is
``memory_efficient_attention`` with ``BlockDiagonalMask``. Both take one causal flag a call. Where
a layout has blocks of both kinds, its rows are brought into an order in which each kind lies
together (``order_of_kinds``): the calls then take slices, whose gradients are no sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.batches.layout import Layout
from fourm.model.attention.kernels import EmptyKernel, Kernel
from fourm.numbers.ragged import rows_of_blocks, starts

_HAS_WINDOWS = torch.__version__ >= "2.12"  # before, varlen_attn had a flag for causal blocks
_TILE = 128  # longest blocks are rounded up to this: the number only says how many tiles to launch


@dataclass(frozen=True)
class _Part:
    """The blocks of one kind (causal or not), as contiguous rows."""

    causal: bool
    cu_q: Tensor  # (S' + 1,) int32, rows before each block; blocks after the last one are empty
    cu_k: Tensor
    max_q: int
    max_k: int
    bias: Any  # xformers' mask object


@dataclass(frozen=True)
class VarlenKernel(Kernel):
    """Blocks in one or two parts, each in one call of the library ``name``."""

    name: str
    parts: tuple[_Part, ...]
    q_sizes: tuple[int, ...]  # rows of each part, then rows of blocks without keys
    k_sizes: tuple[int, ...]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(self.q_sizes) == 1:
            return _run(self.name, q, k, v, self.parts[0])
        q_parts = q.split(self.q_sizes)
        kv_parts = zip(k.split(self.k_sizes), v.split(self.k_sizes), strict=True)
        found = [
            _run(self.name, part_q, *kv, part)
            for part_q, kv, part in zip(q_parts, kv_parts, self.parts, strict=False)
        ]
        # a block without keys has no softmax: zeros
        return torch.cat([*found, *(rows * 0.0 for rows in q_parts[len(self.parts) :])])


def _run(name: str, q: Tensor, k: Tensor, v: Tensor, part: _Part) -> Tensor:
    if name == "xformers":
        from xformers.ops import memory_efficient_attention

        return memory_efficient_attention(q[None], k[None], v[None], attn_bias=part.bias)[0]
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, 0) if part.causal else (-1, -1)
    flag: dict[str, Any] = {"window_size": window} if _HAS_WINDOWS else {"is_causal": part.causal}
    out = varlen_attn(q, k, v, part.cu_q, part.cu_k, part.max_q, part.max_k, **flag)
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


def _kinds(layout: Layout) -> np.ndarray:
    """Kind of each block (S,): 0 sees all its keys, 1 is causal, 2 has queries and no key."""
    return np.where(layout.k_lengths > 0, layout.causal, np.where(layout.q_lengths > 0, 2, 0))


def order_of_kinds(layout: Layout) -> np.ndarray | None:
    """Order of the query rows (T_q,) in which blocks of one kind lie together; None where they do.

    Where there are causal blocks, which are of self-attention, it is the order of keys too.
    """
    order = np.argsort(_kinds(layout), kind="stable")
    if (order == np.arange(len(order))).all():
        return None
    return rows_of_blocks(starts(layout.q_lengths)[order], layout.q_lengths[order])


def prepare_varlen(layout: Layout, name: str) -> Kernel:
    """The kernel of a layout whose rows are in ``order_of_kinds``, on the host; ``name`` is
    ``varlen`` or ``xformers``.
    """
    if layout.is_empty:
        return EmptyKernel()
    kind = _kinds(layout)
    parts, q_sizes, k_sizes = [], [], []
    for causal in (False, True):
        q_lengths, k_lengths = (of[kind == causal] for of in (layout.q_lengths, layout.k_lengths))
        if q_lengths.sum():
            parts.append(_part(q_lengths, k_lengths, causal, layout.max_blocks, name))
            q_sizes.append(int(q_lengths.sum()))
            k_sizes.append(int(k_lengths.sum()))
    if not parts:
        return EmptyKernel()
    blind = int(layout.q_lengths[kind == 2].sum())
    return VarlenKernel(name, tuple(parts), (*q_sizes, *([blind] if blind else [])), tuple(k_sizes))


def _part(
    q_lengths: np.ndarray, k_lengths: np.ndarray, causal: bool, num_blocks: int, name: str
) -> _Part:
    return _Part(
        causal=causal,
        cu_q=_rows_before(q_lengths, num_blocks),
        cu_k=_rows_before(k_lengths, num_blocks),
        max_q=-int(-q_lengths.max() // _TILE) * _TILE,
        max_k=-int(-k_lengths.max() // _TILE) * _TILE,
        bias=xformers_bias(q_lengths, k_lengths, causal) if name == "xformers" else None,
    )


def _rows_before(lengths: np.ndarray, num_blocks: int) -> Tensor:
    """(blocks + 1,), with empty blocks after the last one up to ``num_blocks``."""
    before = np.concatenate([[0], np.cumsum(lengths)])
    spare = max(num_blocks + 1 - len(before), 0)
    return torch.from_numpy(np.pad(before, (0, spare), mode="edge").astype(np.int32))
