"""What every back end offers: rows in, rows out, for one layout on one device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Kernel(Protocol):
    """Attention over the blocks of one layout."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(T_q, H, K) queries, (T_k, H, K) keys and values -> (T_q, H, K)."""
        ...


class EmptyKernel(Kernel):
    """No query or no key at all in the batch: zeros, with gradients that are zeros too."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q * 0.0 + (k.sum() + v.sum()) * 0.0
