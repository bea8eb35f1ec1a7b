"""Residual vector quantization (2107.03312): several codebooks, each codes what the ones before it
left over. Ids of one place lie together, the coarsest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor

from fourm.errors import UserError
from fourm_tokenizers.quantizers import Quantized, Quantizer
from fourm_tokenizers.quantizers.vq import VQConfig, nearest_codes


@dataclass(frozen=True, kw_only=True)
class ResidualConfig(VQConfig, name="residual"):
    """Each codebook is one of ``vq``."""

    num_codebooks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_codebooks < 1:
            raise UserError(f"num_codebooks {self.num_codebooks} must be 1 or more")

    @property
    def codes_per_place(self) -> int:
        return self.num_codebooks

    def build(self) -> Quantizer:
        return Residual(self)


class Residual(Quantizer):
    """A stack of codebooks, applied one after another; a code is their sum."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import ResidualVQ  # slow to import

        self.num_codebooks = config.num_codebooks
        self.inner = ResidualVQ(num_quantizers=config.num_codebooks, **config.options())

    @property
    def _codebooks(self) -> tuple[Tensor, ...]:
        """(V, D) each."""
        return cast(Tensor, self.inner.codebooks).unbind()

    def forward(self, latents: Tensor) -> Quantized:
        if torch.compiler.is_exporting():
            return nearest_codes(latents, self._codebooks)
        codes, ids, losses = self.inner(latents.float())
        return Quantized(
            codes,
            rearrange(ids.long(), "b n q -> b (n q)"),
            losses.sum() if self.training else codes.new_zeros(()),
        )

    def codes(self, ids: Tensor) -> Tensor:
        each = rearrange(ids, "b (n q) -> b n q", q=self.num_codebooks)
        if torch.compiler.is_exporting():  # the library's own fixes the number of samples
            pairs = zip(self._codebooks, each.unbind(-1), strict=True)
            return torch.stack([codebook[i] for codebook, i in pairs]).sum(0)
        return self.inner.get_output_from_indices(each)

    def mean_codes(self, probability: Tensor) -> Tensor:
        each = rearrange(probability, "b (n q) v -> b n q v", q=self.num_codebooks)
        return torch.einsum("bnqv,qvd->bnd", each, self.inner.codebooks)
