"""Lookup-free quantization (2310.05737): the signs of a latent's numbers are the bits of its id.

An entropy loss asks for sure signs of each latent and for even use of all codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fourm.errors import UserError
from fourm_tokenizers.quantizers import Quantized, Quantizer, QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class LFQConfig(QuantizerConfig, name="lfq"):
    """Number of codes, a power of two."""

    codebook_size: int
    entropy: float = 0.1  # weight of the entropy loss

    def __post_init__(self) -> None:
        if self.codebook_size < 2 or self.codebook_size & (self.codebook_size - 1):
            raise UserError(
                f"quantizer lfq needs a power of two, not codebook_size {self.codebook_size}"
            )

    @property
    def size(self) -> int:
        return self.codebook_size

    @property
    def latent_dim(self) -> int:
        return self.codebook_size.bit_length() - 1

    @property
    def remedy(self) -> str:
        return "raise entropy, or take quantizer vq"

    def build(self) -> LFQ:
        return LFQ(self)


class LFQ(Quantizer):
    """Signs as bits."""

    def __init__(self, config: LFQConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import LFQ as Signs  # slow to import

        self.inner = Signs(
            dim=config.latent_dim,
            codebook_size=config.codebook_size,
            entropy_loss_weight=config.entropy,
        )

    def forward(self, latents: Tensor) -> Quantized:
        codes, ids, loss = self.inner(latents.float())
        return Quantized(codes, ids.long(), loss.sum() if self.training else codes.new_zeros(()))

    def codes(self, ids: Tensor) -> Tensor:
        return self.inner.indices_to_codes(ids)
