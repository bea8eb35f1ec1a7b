"""Encoding what grows: only new rows pass the network, those before them are kept.

While a grid is filled, the encoder's input of one step is that of the step before and a few tokens
more. Exactly, all of it must be encoded again, since old rows should see the new ones. Here they do
not: new rows attend to the keys and values of all rows so far, which stay as they were, and so does
the decoder's cross-attention. What comes out is what an encoder gives whose rows see those of their
own step and of earlier ones; a ``GrowingContext`` begun anew at each step changes rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fourm.attention import on_device
from fourm.attention.rows import RowOrder
from fourm.batch import DecoderStream, EncoderStream
from fourm.cache import BlockCache, KeysValues, KeyValueCache
from fourm.encoder import PlainArrangement
from fourm.layout import Layout
from fourm.model import FourM
from fourm.positions import Rotation


class _Kept:
    """Which rows there are so far: how many of each sample, and where new ones go."""

    def __init__(self, num: int, device: torch.device) -> None:
        self.lengths, self._device = np.zeros(num, np.int64), device
        self.order = torch.zeros(0, dtype=torch.int64)  # of all so far, then the new: by sample

    def add(self, lengths: np.ndarray) -> None:
        """``lengths`` (R,) new rows of each sample."""
        owner = np.arange(len(lengths))
        old, new = np.repeat(owner, self.lengths), np.repeat(owner, lengths)
        self.order = on_device(RowOrder.by_owner(old, new), self._device).order
        self.lengths = self.lengths + lengths


class _Grown(KeyValueCache):
    """Keys and values (T, H, K) of all rows so far, by sample."""

    def __init__(self, kept: _Kept) -> None:
        self._kept, self._held = kept, None

    def update(self, make: Callable[[], KeysValues]) -> KeysValues:
        new = make()
        if self._held is not None:
            pairs = zip(self._held, new, strict=True)
            keys, values = (torch.cat(p).index_select(0, self._kept.order) for p in pairs)
            new = keys, values
        self._held = new
        return new


class GrowingContext:
    """What the network keeps of R samples whose encoder input only grows."""

    def __init__(self, model: FourM, num: int) -> None:
        self.model, self._kept = model, _Kept(num, model.device)
        self._encoder = [BlockCache(_Grown(self._kept), None) for _ in model.encoder_blocks]
        self._decoder = [BlockCache(None, _Grown(self._kept)) for _ in model.decoder_blocks]

    def decode(self, new: EncoderStream, asked: DecoderStream) -> Tensor:
        """Decoder output (T, D) of ``asked`` rows given all encoder rows so far and ``new`` ones."""
        context, turn = self._encoded(new)
        model = self.model
        rows, at = model.embed_target(asked.modality, asked.position, asked.input)
        prepared = model.preparation().decoder(asked, self._kept.lengths)
        layout = prepared.attention.turning(at.turn, at.turn)
        cross = prepared.cross.turning(at.turn, turn)
        rows = model.stream(rows)
        for block, cache in zip(model.decoder_blocks, self._decoder, strict=True):
            rows = block(rows, layout, context, cross, cache)
        return model.decoder_norm(rows)

    def _encoded(self, new: EncoderStream) -> tuple[Tensor, Rotation | None]:
        """Context (T, D) of new rows, after the keys and values of all layers are kept."""
        model, backend = self.model, self.model.preparation().backend
        num_registers = 0 if self._kept.lengths.any() else model.config.num_registers
        first = on_device(PlainArrangement(num_registers).rows(new, backend), model.device)
        content, at = model.embed_input(new, first.registers)
        self._kept.add(first.lengths)
        pairs = Layout.per_sample(first.lengths, self._kept.lengths)
        layout = on_device(backend.prepare(pairs), model.device).turning(at.turn, at.turn)
        rows = model.stream(content + at.added)
        for block, cache in zip(model.encoder_blocks, self._encoder, strict=True):
            rows = block(rows, layout, cache=cache)
        return model.finished(rows, at.added)[1], at.turn
