"""Vector quantization (1711.00937): the nearest of learned codes by cosine (2110.04627).

Codes follow their latents by exponential average (1906.00446), begin with k-means over the first
batch, and are taken anew from the batch where they fall out of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.errors import UserError
from fourm_tokenizers.quantizers import Quantized, Quantizer, QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class VQConfig(QuantizerConfig, name="vq"):
    """Size of the codebook and how its codes move."""

    codebook_size: int
    code_dim: int = 16  # numbers in a code
    decay: float = 0.99  # of the codes' averages
    commitment: float = 1.0  # weight of the loss that keeps latents near their codes
    revive_below: float = 1.0  # a code used less than this in an average batch is replaced

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise UserError(
                f"quantizer {self.type_name} needs codebook_size 2 or more,"
                f" not {self.codebook_size}"
            )

    @property
    def size(self) -> int:
        return self.codebook_size

    @property
    def latent_dim(self) -> int:
        return self.code_dim

    @property
    def remedy(self) -> str:
        return "take fewer codes, raise revive_below, or lower the learning rate"

    def options(self) -> dict[str, Any]:
        """The same in the library's words."""
        return {
            "dim": self.code_dim,
            "codebook_size": self.codebook_size,
            "use_cosine_sim": True,
            "decay": self.decay,
            "kmeans_init": True,
            "threshold_ema_dead_code": self.revive_below,
            "commitment_weight": self.commitment,
        }

    def build(self) -> Quantizer:
        return VQ(self)


class VQ(Quantizer):
    """One learned codebook."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import VectorQuantize  # slow to import

        self.inner = VectorQuantize(**config.options())

    def forward(self, latents: Tensor) -> Quantized:
        if torch.compiler.is_exporting():
            return nearest_codes(latents, [self.inner.codebook])
        codes, ids, loss = self.inner(latents.float())
        return Quantized(codes, ids.long(), loss.sum() if self.training else codes.new_zeros(()))

    def codes(self, ids: Tensor) -> Tensor:
        return self.inner.get_codes_from_indices(ids)


def nearest_codes(latents: Tensor, codebooks: Sequence[Tensor]) -> Quantized:
    """What the library gives outside training, each codebook (V, D) after the one before it, as a
    graph: its own asks a tensor whether the codes have begun, which no exported graph can follow.
    """
    left, ids = latents.float(), []
    for codebook in codebooks:
        ids.append((F.normalize(left, dim=-1) @ codebook.T).argmax(-1))
        left = left - codebook[ids[-1]]
    each = rearrange(torch.stack(ids, -1), "b n q -> b (n q)")
    return Quantized(latents.float() - left, each, left.new_zeros(()))
