"""Finite scalar quantization (2309.15505): every number of a latent is rounded to a few levels.

The codebook is the grid of all roundings. Nothing of it is learned, but the latents can still
gather in a few cells: in the first steps they drift to where tanh is flat, and where a few
directions hold most of what is to be said (maps with large equal areas) a grid spends its codes
evenly on all of them. Such values are better coded by ``vq``; docs/tokenizers.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fourm.config import at_least
from fourm.errors import UserError
from fourm_tokenizers.quantizers import Quantized, Quantizer, QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class FSQConfig(QuantizerConfig, name="fsq"):
    """Levels of each number of a latent."""

    levels: tuple[int, ...]
    codebook_size: int = 0  # product of the levels; 0 = not said

    def __post_init__(self) -> None:
        if not self.levels:
            raise UserError("quantizer fsq needs levels, e.g. [8, 8, 8, 5]")
        at_least(self, 2, "levels")
        if self.codebook_size not in (0, self.size):
            raise UserError(
                f"levels {list(self.levels)} do not multiply to codebook_size {self.codebook_size}"
            )

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def latent_dim(self) -> int:
        return len(self.levels)

    @property
    def remedy(self) -> str:
        return (
            f"take quantizer: {{type: vq, codebook_size: {self.size}}} instead of levels, or fewer"
            " levels"
        )

    def build(self) -> FSQ:
        return FSQ(self)


class FSQ(Quantizer):
    """Rounding to levels; the straight-through gradient is its whole training."""

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        from vector_quantize_pytorch import FSQ as Rounding  # slow to import

        self.inner = Rounding(list(config.levels))

    def forward(self, latents: Tensor) -> Quantized:
        codes, ids = self.inner(latents.float())
        return Quantized(codes, ids.long(), codes.new_zeros(()))

    def codes(self, ids: Tensor) -> Tensor:
        return self.inner.indices_to_codes(ids)
