"""Attention over packed rows: one function, a block-diagonal layout, three back ends.

A batch is a flat list of rows (see ``batch.py``), and a ``Layout`` says which of them see which.
``prepare`` makes of it, once a batch, what all layers share: the kernel of a back end, and how the
rows' places turn queries and keys (``positions.py``).

* ``sdpa`` (``padded.py``) is the reference: any device, any dtype; every other path is tested
  against it.
* ``varlen`` is ``torch.nn.attention.varlen`` (CUDA, half precision): no padding at all.
* ``xformers`` is ``memory_efficient_attention`` with ``BlockDiagonalMask`` (CUDA).

``auto`` takes ``varlen`` where it runs, else ``sdpa``. A back end asked for by name that cannot run
is announced once.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fourm.attention.kernels import Kernel
from fourm.attention.padded import prepare_padded
from fourm.attention.varlen import prepare_varlen
from fourm.errors import UserError
from fourm.layout import Layout
from fourm.positions import Rotation

BACKENDS = ("auto", "sdpa", "varlen", "xformers")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedLayout:
    """Who sees whom on a device, and how the rows' places turn their queries and keys."""

    kernel: Kernel
    turn_q: Rotation | None = None  # of T_q rows; None = nothing is turned
    turn_k: Rotation | None = None  # of T_k rows

    def turned_queries(self, q: Tensor) -> Tensor:
        """(T_q, H, K) -> (T_q, H, K)."""
        return q if self.turn_q is None else self.turn_q(q)

    def turned_keys(self, k: Tensor) -> Tensor:
        """(T_k, H, K) -> (T_k, H, K)."""
        return k if self.turn_k is None else self.turn_k(k)


def prepare(
    layout: Layout,
    like: Tensor,
    backend: str,
    turn_q: Rotation | None = None,
    turn_k: Rotation | None = None,
) -> PreparedLayout:
    """What attention needs of a layout, made once a batch and shared by all layers.

    Args:
        like: rows of the batch: their device, and their dtype where autocast does not choose one.
        backend: one of ``BACKENDS``.
        turn_q, turn_k: of rotary positions; the rows of the layout's queries and keys.
    """
    name = resolve_backend(backend, like.device.type, attention_dtype(like))
    if name == "sdpa":
        kernel = prepare_padded(layout, like.device)
    else:
        kernel = prepare_varlen(layout, like.device, name)
    return PreparedLayout(kernel, turn_q, turn_k)


def attention_dtype(rows: Tensor) -> torch.dtype:
    """The type that attention of these rows computes in: autocast's where it is on."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


@cache
def resolve_backend(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """The back end that will run; says once why it is not the one asked for.

    Raises UserError for an unknown name.
    """
    if backend not in BACKENDS:
        raise UserError(f"attention back end {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "sdpa":
        return "sdpa"
    wanted = "varlen" if backend == "auto" else backend
    reason = why_not(wanted, device_type, dtype)
    if not reason:
        return wanted
    if backend != "auto":
        _log.warning("attention back end %s unavailable: %s; using sdpa", backend, reason)
    return "sdpa"


def why_not(backend: str, device_type: str, dtype: torch.dtype) -> str:
    """Why a CUDA back end cannot run here; empty if it can."""
    if backend == "xformers" and importlib.util.find_spec("xformers") is None:
        return "xformers is not installed (pip install 'fourm[gpu]')"
    if backend == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return "this version of torch does not have it"
    if device_type != "cuda":
        return f"it has no kernel for {device_type}"
    if backend == "varlen" and dtype not in (torch.float16, torch.bfloat16):
        return f"it runs in half precision, not {dtype}"
    return ""
