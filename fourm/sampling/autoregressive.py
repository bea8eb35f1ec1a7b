"""Left-to-right decoding of sequences with cached keys and values.

The encoder runs once and each decoder layer's cross-attention keys and values are computed once; a
step pushes one token of every sample (and guidance branch) through the decoder. Decoded text fills
the gaps that sentinels mark in the input.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from fourm.batch import DecoderStream
from fourm.modalities import END_ID, FIRST_SENTINEL, PAD_ID, START_ID, UNKNOWN_ID
from fourm.model import Encoded, FourM


class CachedDecoder:
    """One decoder segment of R samples, a token at a time."""

    def __init__(self, model: FourM, encoded: Encoded, max_length: int) -> None:
        self.model = model
        num, longest = len(encoded.lengths), max(int(encoded.lengths.max(initial=0)), 1)
        config = model.config
        lengths = torch.as_tensor(encoded.lengths, device=encoded.context.device)
        slot = torch.arange(longest, device=lengths.device)
        valid = slot < lengths[:, None]
        row = torch.where(valid, (lengths.cumsum(0) - lengths)[:, None] + slot, 0)
        self.cross_mask = (valid | ~valid.any(1, keepdim=True))[:, None, None]
        self.sees_any = valid.any(1)[:, None, None, None]
        self.cross: list[tuple[Tensor, Tensor]] = []
        self.past: list[tuple[Tensor, Tensor]] = []
        for block in model.decoder_blocks:
            assert block.cross_attention is not None and block.norm_context is not None
            k, v = block.cross_attention.keys_values(block.norm_context(encoded.context))
            if not len(k):  # nothing was given at all
                k, v = (t.new_zeros(1, *t.shape[1:]) for t in (k, v))
            self.cross.append(
                (rearrange(k[row], "r n h k -> r h n k"), rearrange(v[row], "r n h k -> r h n k"))
            )
            shape = (num, config.num_heads, max_length, config.dim // config.num_heads)
            self.past.append((k.new_zeros(shape), v.new_zeros(shape)))
        self.length = 0

    def step(self, modality: int, tokens: Tensor) -> Tensor:
        """Next token of each sample (R,) -> decoder output (R, D) at its place."""
        model, at = self.model, self.length
        kind = torch.full_like(tokens, modality)
        rows = model.embed_target(kind, torch.full_like(tokens, at), tokens)
        for block, (past_k, past_v), (cross_k, cross_v) in zip(
            model.decoder_blocks, self.past, self.cross, strict=True
        ):
            attention = block.self_attention
            normed = block.norm_self(rows)
            q = attention.queries(normed)
            k, v = attention.keys_values(normed)
            past_k[:, :, at], past_v[:, :, at] = k, v
            seen = F.scaled_dot_product_attention(
                q[:, :, None], past_k[:, :, : at + 1], past_v[:, :, : at + 1]
            )
            rows = rows + attention.output(seen[:, :, 0])
            cross = block.cross_attention
            assert cross is not None and block.norm_query is not None
            q = cross.queries(block.norm_query(rows))
            seen = F.scaled_dot_product_attention(
                q[:, :, None], cross_k, cross_v, attn_mask=self.cross_mask
            )
            rows = rows + cross.output((seen * self.sees_any)[:, :, 0])
            rows = rows + block.mlp(block.norm_mlp(rows))
        self.length += 1
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
