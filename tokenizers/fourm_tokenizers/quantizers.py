"""Codebooks behind one small interface; the algorithms are those of ``vector-quantize-pytorch``.

* ``fsq``: every latent number is rounded to a few levels (2309.15505). Nothing to collapse; the
  default.
* ``vq``: nearest code by cosine, codes follow by exponential average, dead codes are revived from
  the batch, k-means at the start.
* ``lfq``: the signs of the latent are the code (2310.05737), with its entropy loss.
* ``residual``: ``vq`` several times, each codes what the ones before left over; ids of one place
  lie together.

Latents are (B, n, code_dim); ids are (B, n * num_codebooks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fourm.errors import UserError

QuantizerType = Literal["fsq", "vq", "lfq", "residual"]


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """Type and size of a codebook. ``levels`` is for fsq, ``codebook_size`` for the others."""

    type: QuantizerType = "fsq"
    levels: tuple[int, ...] = ()
    codebook_size: int = 0
    code_dim: int = 16  # vq, residual: numbers in a code
    num_codebooks: int = 1  # residual: codes at each place
    decay: float = 0.99  # vq: of the codes' averages
    commitment: float = 1.0  # vq: weight of the loss that keeps latents near their codes
    revive_below: float = 1.0  # vq: a code used less than this in an average batch is replaced
    entropy: float = 0.1  # lfq: weight of its entropy loss

    def __post_init__(self) -> None:
        if self.type == "fsq":
            if not self.levels:
                raise UserError("quantizer fsq needs levels, e.g. [8, 8, 8, 5]")
            if self.codebook_size not in (0, math.prod(self.levels)):
                raise UserError(
                    f"levels {list(self.levels)} do not multiply to codebook_size"
                    f" {self.codebook_size}"
                )
        elif self.codebook_size < 2:
            raise UserError(f"quantizer {self.type} needs codebook_size")
        if self.type == "lfq" and self.codebook_size & (self.codebook_size - 1):
            raise UserError(
                f"quantizer lfq needs a power of two, not codebook_size {self.codebook_size}"
            )
        if self.type != "residual" and self.num_codebooks != 1:
            raise UserError("several codebooks need quantizer residual")

    @property
    def size(self) -> int:
        """Number of codes of one codebook."""
        return math.prod(self.levels) if self.type == "fsq" else self.codebook_size

    @property
    def latent_dim(self) -> int:
        if self.type == "fsq":
            return len(self.levels)
        return int(math.log2(self.codebook_size)) if self.type == "lfq" else self.code_dim


@dataclass(frozen=True)
class Quantized:
    codes: Tensor  # (B, n, latent_dim), with straight-through gradient
    ids: Tensor  # (B, n * num_codebooks) int64
    loss: Tensor  # scalar


class Quantizer(nn.Module):
    """One codebook (or several residual ones)."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        import vector_quantize_pytorch as library

        self.config = c = config
        shared = {
            "dim": c.latent_dim,
            "codebook_size": c.codebook_size,
            "use_cosine_sim": True,
            "decay": c.decay,
            "kmeans_init": True,
            "threshold_ema_dead_code": c.revive_below,
            "commitment_weight": c.commitment,
        }
        if c.type == "fsq":
            self.inner: nn.Module = library.FSQ(list(c.levels))
        elif c.type == "vq":
            self.inner = library.VectorQuantize(**shared)
        elif c.type == "lfq":
            self.inner = library.LFQ(
                dim=c.latent_dim, codebook_size=c.codebook_size, entropy_loss_weight=c.entropy
            )
        else:
            self.inner = library.ResidualVQ(num_quantizers=c.num_codebooks, **shared)

    def forward(self, latents: Tensor) -> Quantized:
        latents = latents.float()
        zero = latents.new_zeros(())
        if self.config.type == "fsq":
            codes, ids = self.inner(latents)
            return Quantized(codes, ids.long(), zero)
        codes, ids, loss = self.inner(latents)[:3]
        return Quantized(codes, ids.long().flatten(1), loss.sum() if self.training else zero)

    def codes(self, ids: Tensor) -> Tensor:
        """Ids (B, n * num_codebooks) -> codes (B, n, latent_dim)."""
        if self.config.type == "vq":
            return self.inner.get_codes_from_indices(ids)  # type: ignore[operator]
        if self.config.type == "residual":
            return self.inner.get_output_from_indices(
                ids.unflatten(1, (-1, self.config.num_codebooks))
            )  # type: ignore[operator]
        return self.inner.indices_to_codes(ids)  # type: ignore[operator]


@dataclass(frozen=True)
class CodeUse:
    """How a codebook is used by some samples."""

    usage: float  # share of the codes that occur (at most as many as there are tokens)
    perplexity: float
    dead: int  # codes that never occur

    @staticmethod
    def of(ids: Tensor, size: int) -> CodeUse:
        counts = torch.bincount(ids.reshape(-1).cpu(), minlength=size).double()
        share = counts[counts > 0] / counts.sum()
        used = int((counts > 0).sum())
        return CodeUse(
            used / min(size, ids.numel()), float((-share * share.log()).sum().exp()), size - used
        )

    def advice(self, name: str) -> str:
        """What to do about it, or nothing if 10 % or more of the codes are in use."""
        if self.usage >= 0.1:
            return ""
        return (
            f"{name} uses {100 * self.usage:.0f} % of its codes: take fewer codes or levels, raise"
            " revive_below (vq), lower the"
            " learning rate, or use quantizer fsq"
        )
