"""Attention over packed rows: one function, a block-diagonal layout, three back ends.

A batch is a flat list of rows (see ``batch.py``), and a ``Layout`` says which of them see which.
A ``Backend`` makes of it, once a batch and on the host, what all layers share: a kernel, and the
order of rows that the kernel wants. It knows where attention will run, so that a loader's worker
can do this before the batch is moved (``fourm.model.prepared``).

* ``sdpa`` is the reference: any device, any dtype; every other path is tested against it. Rows are
  padded by sample (``padded.py``), or on a CPU taken block by block where that is less work
  (``blockwise.py``).
* ``varlen`` is ``torch.nn.attention.varlen`` (CUDA, half precision): no padding at all.
* ``xformers`` is ``memory_efficient_attention`` with ``BlockDiagonalMask`` (CUDA).

``auto`` takes ``varlen`` where it runs, else ``sdpa``. A back end asked for by name that cannot run
is announced once.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from fourm.batches.batch import map_tensors
from fourm.batches.layout import Layout
from fourm.errors import UserError
from fourm.model.attention.blockwise import BlockwiseKernel, worth_it
from fourm.model.attention.kernels import Kernel
from fourm.model.attention.padded import prepare_padded
from fourm.model.attention.rows import RowOrder
from fourm.model.attention.varlen import order_of_kinds, prepare_varlen
from fourm.model.positions import Rotation

BACKENDS = ("auto", "sdpa", "varlen", "xformers")
_CAPABILITY = (8, 0)  # of GPUs that have varlen's kernels: Ampere and later
_MAX_HEAD_DIM = 256  # of varlen's kernels
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PreparedLayout:
    """Who sees whom, and how the rows' places turn their queries and keys."""

    kernel: Kernel
    turn_q: Rotation | None = None  # of T_q rows; None = nothing is turned
    turn_k: Rotation | None = None  # of T_k rows
    order: RowOrder | None = None  # of the T_q rows in the kernel, and of keys in self-attention

    def turned_queries(self, q: Tensor) -> Tensor:
        """(T_q, H, K) -> (T_q, H, K)."""
        return q if self.turn_q is None else self.turn_q(q)

    def turned_keys(self, k: Tensor) -> Tensor:
        """(T_k, H, K) -> (T_k, H, K)."""
        return k if self.turn_k is None else self.turn_k(k)

    def turning(self, q: Rotation | None, k: Rotation | None) -> PreparedLayout:
        """The same for rows that are turned: angles of the T_q query and T_k key rows, the same
        object in self-attention.
        """
        if q is None or k is None:
            return self
        ordered = q if self.order is None else q.each(self.order)
        return replace(self, turn_q=ordered, turn_k=ordered if k is q else k)


@dataclass(frozen=True)
class Backend:
    """Where and how attention runs: all that a layout's preparation must know of a machine."""

    name: str  # of BACKENDS but "auto"
    on_cpu: bool

    @staticmethod
    def of(wanted: str, like: Tensor, head_dim: int) -> Backend:
        """What will run for rows ``like`` these, under the autocast that is on.

        Raises UserError for a name that is not one of ``BACKENDS``.
        """
        name = resolve_backend(wanted, like.device.type, attention_dtype(like), head_dim)
        return Backend(name, like.device.type == "cpu")

    def prepare(self, layout: Layout) -> PreparedLayout:
        """What attention needs of a layout, on the host."""
        if self.name != "sdpa":
            order = order_of_kinds(layout)
            return PreparedLayout(
                prepare_varlen(layout, self.name),
                order=None if order is None else RowOrder.of(order),
            )
        if self.on_cpu and not layout.is_empty and worth_it(layout):
            return PreparedLayout(BlockwiseKernel.of(layout))
        return PreparedLayout(prepare_padded(layout))


def prepare(layout: Layout, like: Tensor, backend: str, head_dim: int) -> PreparedLayout:
    """A layout made on the spot for rows ``like`` these; ``backend`` is one of ``BACKENDS``."""
    return on_device(Backend.of(backend, like, head_dim).prepare(layout), like.device)


def on_device(prepared: T, device: torch.device) -> T:
    """What was made on the host, on a device."""
    if device.type == "cpu":
        return prepared
    return map_tensors(prepared, lambda t: t.to(device, non_blocking=True))


def attention_dtype(rows: Tensor) -> torch.dtype:
    """The type that attention of these rows computes in: autocast's where it is on."""
    kind = rows.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else rows.dtype


@cache
def resolve_backend(backend: str, device_type: str, dtype: torch.dtype, head_dim: int) -> str:
    """The back end that will run; says once why it is not the one asked for.

    Raises UserError for an unknown name.
    """
    if backend not in BACKENDS:
        raise UserError(f"attention back end {backend!r} is not one of {', '.join(BACKENDS)}")
    if backend == "sdpa":
        return "sdpa"
    wanted = "varlen" if backend == "auto" else backend
    reason = why_not(wanted, device_type, dtype, head_dim)
    if not reason:
        return wanted
    if backend != "auto":
        _log.warning("attention back end %s unavailable: %s; using sdpa", backend, reason)
    return "sdpa"


def why_not(backend: str, device_type: str, dtype: torch.dtype, head_dim: int = 64) -> str:
    """Why a CUDA back end cannot run here; empty if it can. Heads of most models are 64 wide."""
    if backend == "xformers" and importlib.util.find_spec("xformers") is None:
        return "xformers is not installed (pip install 'fourm[gpu]')"
    if backend == "varlen" and importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return "this version of torch does not have it"
    if device_type != "cuda":
        return f"it has no kernel for {device_type}"
    if backend == "xformers":
        return ""
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it runs in half precision, not {dtype}"
    if torch.cuda.get_device_capability() < _CAPABILITY:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"this GPU has compute capability {found}, it needs 8.0"
    if head_dim % 8 or head_dim > _MAX_HEAD_DIM:
        return f"heads are {head_dim} wide, not a multiple of 8 up to {_MAX_HEAD_DIM}"
    return ""
