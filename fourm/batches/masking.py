"""Which tokens of a sample are inputs and which are targets.

Semantics of 4M (2312.06647): a mixture component is drawn, Dirichlet draws share out the number of
input and of target tokens among modalities, grids take random positions, sequences hide spans
behind sentinels. Two differences, both options: what a modality cannot use of its share goes to
those that still have tokens (``redistribute``; the reference pads instead), and input and target of
one image never overlap. Everything is a pure function of (seed, draw number): no generator, no
order of calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fourm.batches.batch import MASK_QUERY, DecoderStream, EncoderStream, MaskedBatch, Vectors
from fourm.batches.mask_config import MaskingComponent, MaskingConfig, rules_of
from fourm.batches.mask_rules import Rows
from fourm.batches.tokens import Ragged, SampleTokens, UnreadableElements
from fourm.modalities import Modality, ModalitySet
from fourm.numbers.ragged import rows_of_blocks
from fourm.numbers.ragged import starts as starts_of
from fourm.numbers.rng import CounterRNG

__all__ = ["Masker", "MaskingComponent", "MaskingConfig"]


class Masker:
    """Draws masks for one modality set.

    Args:
        maskings: one for all samples, or that of each data set.
    """

    def __init__(
        self, modalities: ModalitySet, maskings: MaskingConfig | Sequence[MaskingConfig], seed: int
    ) -> None:
        # the compiler is loaded where masks are drawn and nowhere else
        from fourm.batches.mask_samples import mask_samples
        from fourm.batches.read_rows import read_ids

        self._one_for_all = isinstance(maskings, MaskingConfig)
        maskings = [maskings] if isinstance(maskings, MaskingConfig) else maskings
        for masking in maskings:
            masking.check(modalities)
        self.modalities = modalities
        self.causal = np.array([m.kind == "sequence" for m in modalities])
        self._root = CounterRNG(seed, "masking").root
        self._rules = rules_of(modalities, maskings)
        self._mask_samples, self._read_ids = mask_samples, read_ids

    def __call__(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        """Mask a batch; ``draws`` (B,) are the numbers that its randomness is a function of.

        A sample of which a file turns out to be damaged is masked as one that lacks the modality;
        the others are what they would have been.
        """
        try:
            return self._masked(tokens, draws)
        except _DamagedSamples as damaged:
            batch = self(tokens.without(damaged.modality, damaged.samples), draws)
            num = batch.num_unreadable + len(damaged.samples)
            return replace(batch, num_unreadable=num)

    def _masked(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        shape = (len(tokens), len(self.modalities))
        lengths, starts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, m in enumerate(self.modalities):
            held = tokens.content.get(m.name)
            if held is not None:
                lengths[:, i], starts[:, i] = held.lengths, held.starts
        encoder = _room(shape, self._rules.num_inputs)
        decoder = _room(shape, self._rules.num_targets)
        draws = np.ascontiguousarray(draws, np.int64)
        source = tokens.source
        if source is None or self._one_for_all:
            source = np.zeros(len(tokens), np.int64)
        self._mask_samples(
            self._rules, self._root, source, draws, lengths, starts, encoder, decoder
        )
        return MaskedBatch(
            self._encoder(tokens, encoder), self._decoder(tokens, decoder), tokens.samples
        )

    def compile(self, tokens: SampleTokens) -> None:
        """Compile what two or more samples of these types need, so that processes forked later
        find it done.
        """
        self(tokens, np.zeros(len(tokens), np.int64))
        counts = np.zeros((len(tokens), len(self.modalities) + 1), np.int64)
        for m in self.modalities:
            if m.name in tokens.content and m.kind != "continuous":
                # columns of a table, as those of a batch: another layout is another type
                self._read(tokens.content[m.name], counts[:, 0], counts[:, 0], counts[0])

    def _encoder(self, tokens: SampleTokens, rows: Rows) -> EncoderStream:
        """The stream of the rows that were chosen as inputs."""
        first = starts_of(rows.counts.reshape(-1)).reshape(rows.counts.shape)
        num, vectors = int(rows.counts.sum()), {}
        for i, m in enumerate(self.modalities):
            held, counts = tokens.content.get(m.name), rows.counts[:, i]
            if held is None or not counts.any():
                continue
            if m.kind != "continuous":
                self._read(held, first[:, i], counts, rows.given)
                continue
            at = rows_of_blocks(first[:, i], counts)
            sample = np.repeat(np.arange(len(tokens)), counts)
            try:
                values = held.take(sample, rows.position[at])
            except UnreadableElements as unreadable:
                raise _DamagedSamples(m.name, np.unique(sample[unreadable.at])) from None
            rows.given[at] = 0
            scale = _scale(m) if values.dtype == np.uint8 else None
            values = values if scale is not None else values.astype(np.float32, copy=False)
            vectors[m.name] = Vectors(torch.from_numpy(at), torch.from_numpy(values), scale)
        modality, position = rows.modality[:num], rows.position[:num]
        return EncoderStream(
            torch.from_numpy(modality),
            torch.from_numpy(position),
            torch.from_numpy(rows.given[:num]),
            rows.counts.sum(1),
            # copies: a loader's worker moves tensors into shared memory and frees what was theirs
            modality.copy(),
            position.copy(),
            vectors,
        )

    def _decoder(self, tokens: SampleTokens, rows: Rows) -> DecoderStream:
        """The stream of the rows that were chosen as targets."""
        first = starts_of(rows.counts.reshape(-1)).reshape(rows.counts.shape)
        num = int(rows.counts.sum())
        for i, m in enumerate(self.modalities):
            held, counts = tokens.content.get(m.name), rows.counts[:, i]
            if held is not None and counts.any():
                self._read(held, first[:, i], counts, rows.target)
                if m.kind == "sequence":
                    self._read(held, first[:, i], counts, rows.given)
        segment = np.flatnonzero(rows.counts)
        sample, kind = np.divmod(segment, len(self.modalities))
        modality, position, given, target = (torch.from_numpy(a[:num]) for a in rows[1:])
        # of 16 bits, because those are sorted by counting
        by_modality = np.argsort(rows.modality[:num].astype(np.int16), kind="stable")
        return DecoderStream(
            modality,
            position,
            given,
            target,
            rows.counts.sum(1),
            rows.counts.reshape(-1)[segment],
            sample,
            self.causal[kind],
            torch.from_numpy(by_modality),
            tuple(rows.counts.sum(0).tolist()),
        )

    def _read(
        self, held: Ragged, first: np.ndarray, counts: np.ndarray, contents: np.ndarray
    ) -> None:
        """Ids in place of contents (T,), in ``counts`` (B,) rows of each sample from ``first``."""
        for i, part in enumerate(held.parts):
            self._read_ids(np.asarray(part), held.part == i, first, counts, contents)


class _DamagedSamples(Exception):
    """Samples (n,) of a batch whose files of a modality are damaged."""

    def __init__(self, modality: str, samples: np.ndarray) -> None:
        super().__init__(modality)
        self.modality, self.samples = modality, samples


def _room(shape: tuple[int, int], ranges: np.ndarray) -> Rows:
    """Room for the rows of B samples whose numbers are within ``ranges`` (K, 2)."""
    num = shape[0] * int(ranges[:, 1].max()) + 1
    modality, position, given, target = np.empty((4, num), np.int64)
    given[:] = MASK_QUERY  # where nothing else is written
    return Rows(np.zeros(shape, np.int64), modality, position, given, target)


def _scale(m: Modality) -> torch.Tensor | None:
    """What makes floats of patches that travel as bytes."""
    scale = m.raw.byte_scale
    if scale is None or not m.patch_size:
        return None
    return torch.from_numpy(np.tile(scale, m.patch_size**2))
