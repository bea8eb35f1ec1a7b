"""Left-to-right decoding of sequences with cached keys and values.

The encoder runs once and each decoder layer's cross-attention keys and values are computed once; a
step pushes one token of every sample (and guidance branch) through the decoder. Decoded text fills
the gaps that sentinels mark in the input.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from fourm.attention import PreparedLayout
from fourm.batch import DecoderStream
from fourm.cache import BlockCache, ContextSlots, Kept, Past, past_kernel
from fourm.encoder import Encoded
from fourm.modalities import END_ID, FIRST_SENTINEL, PAD_ID, START_ID, UNKNOWN_ID
from fourm.model import FourM


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


class UncachedDecoder:
    """The same by running the whole prefix each time: the reference that the cache is tested
    against.
    """

    def __init__(self, model: FourM, encoded: Encoded, max_length: int) -> None:
        self.model, self.encoded = model, encoded
        self.prefix: list[Tensor] = []

    def step(self, modality: int, tokens: Tensor) -> Tensor:
        self.prefix.append(tokens)
        prefix = torch.stack(self.prefix, 1)  # (R, t)
        num, length = prefix.shape
        flat = prefix.reshape(-1)
        counts = [0] * len(self.model.modalities)
        counts[modality] = len(flat)
        stream = DecoderStream(
            torch.full_like(flat, modality),
            torch.arange(length, device=flat.device).repeat(num),
            flat,
            flat,
            np.full(num, length),
            np.full(num, length),
            np.arange(num),
            np.ones(num, bool),
            torch.arange(len(flat), device=flat.device),
            tuple(counts),
        )
        return rearrange(self.model.decode(self.encoded, stream), "(r t) d -> r t d", r=num)[:, -1]


def forbidden_ids(vocab_size: int, device: torch.device) -> Tensor:
    """Mask (V,) of ids that are never generated."""
    mask = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    mask[[PAD_ID, UNKNOWN_ID, START_ID]] = True
    return mask


def count_gaps(ids: np.ndarray, last_sentinel: int) -> int:
    """Sentinels in a given sequence; an empty one is one gap."""
    return max(int(((ids >= FIRST_SENTINEL) & (ids <= last_sentinel)).sum()), 1)


def fill_gaps(given: np.ndarray, decoded: np.ndarray, last_sentinel: int, most: int) -> np.ndarray:
    """A given sequence with its sentinels replaced by the decoded spans; ``decoded`` begins with
    [S_1].

    The result has at most ``most`` ids: what was given stays, spans that would push it out are cut.
    """
    spans: dict[int, list[int]] = {}
    current = None
    for i in decoded.tolist():
        if FIRST_SENTINEL <= i <= last_sentinel:
            current = i
        elif current is not None:
            spans.setdefault(current, []).append(i)
    if not len(given):
        given = np.array([FIRST_SENTINEL])
    filled: list[int] = []
    has_end = END_ID in given  # then an end inside a gap ends the gap alone
    room = most - int(((given < FIRST_SENTINEL) | (given > last_sentinel)).sum())
    for i in given.tolist():
        if FIRST_SENTINEL <= i <= last_sentinel:
            span = [t for t in spans.get(i, []) if t != END_ID or not has_end][: max(room, 0)]
            room -= len(span)
            filled += span
        else:
            filled.append(i)
    if END_ID in filled:
        filled = filled[: filled.index(END_ID) + 1]
    return np.array(filled, dtype=np.int64)
