"""Left-to-right decoding of sequences with cached keys and values.

The encoder runs once and each decoder layer's cross-attention keys and values are computed once; a
step pushes one token of every sample (and guidance branch) through the decoder. Decoded text fills
the gaps that sentinels mark in the input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fourm.model.attention import PreparedLayout
from fourm.model.cache import BlockCache, ContextSlots, Kept, Past, past_kernel
from fourm.model.encoder import Encoded
from fourm.model.model import FourM


class CachedDecoder:
    """One decoder segment of R samples, a token at a time, through the model's own blocks."""

    def __init__(self, model: FourM, encoded: Encoded, max_length: int) -> None:
        self.model, self.encoded = model, encoded
        num, shape = len(encoded.lengths), model.config.block
        slots = ContextSlots.of(encoded.lengths, encoded.context.device)
        self._caches = [
            BlockCache(
                Past(num, shape.num_heads, max_length, shape.head_dim, encoded.context),
                Kept(slots),
            )
            for _ in model.decoder_blocks
        ]
        self._past, self._context = past_kernel(), slots.kernel()
        self._length = 0

    def step(self, modality: int, tokens: Tensor) -> Tensor:
        """Next token of each sample (R,) -> decoder output (R, D) at its place."""
        model = self.model
        kind, position = torch.full_like(tokens, modality), torch.full_like(tokens, self._length)
        rows, at = model.embed_target(kind, position, tokens)
        layout = PreparedLayout(self._past, at.turn, at.turn)
        cross = PreparedLayout(self._context, at.turn, self.encoded.turn)
        for block, cache in zip(model.decoder_blocks, self._caches, strict=True):
            rows = block(rows, layout, self.encoded.context, cross, cache)
        self._length += 1
        return model.decoder_norm(rows)
