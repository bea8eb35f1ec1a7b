"""How much of a codebook some samples use, and what to do where it is little."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeUse:
    """How a codebook is used by some samples."""

    usage: float  # share of the codes that occur (at most as many as there are tokens)
    perplexity: float
    dead: int  # codes that never occur

    @staticmethod
    def of(ids: Tensor, size: int) -> CodeUse:
        """Use of ``size`` codes by ids of any shape."""
        counts = torch.bincount(ids.reshape(-1).cpu(), minlength=size).double()
        share = counts[counts > 0] / counts.sum()
        used = int((counts > 0).sum())
        return CodeUse(
            usage=used / min(size, ids.numel()),
            perplexity=float((-share * share.log()).sum().exp()),
            dead=size - used,
        )

    def advice(self, name: str, remedy: str) -> str:
        """What to do about it (``QuantizerConfig.remedy``), or nothing if 10 % or more of the codes
        are in use.
        """
        if self.usage >= 0.1:
            return ""
        return f"{name} uses {100 * self.usage:.0f} % of its codes: {remedy}"
