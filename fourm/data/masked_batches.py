"""Masked batches drawn from a mixture of sources: each a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np
import torch

from fourm.batches.batch import MaskedBatch
from fourm.batches.masking import Masker, MaskingConfig
from fourm.batches.tokens import Elements, Ragged, SampleTokens
from fourm.data.order import SampleOrder
from fourm.data.remote.ahead import LookAhead
from fourm.data.store import Source
from fourm.errors import UserError
from fourm.modalities import ModalitySet


class MaskedBatches(torch.utils.data.Dataset):
    """Step number -> the masked micro-batches of one rank at that step.

    The global batch of step s is draws s * batch_size ... ; each rank takes its own slice, so
    sources, samples and masks are the same on any number of ranks and workers.
    """

    def __init__(
        self,
        sources: list[Source],
        order: SampleOrder,
        masker: Masker,
        batch_size: int,
        num_micro_batches: int,
        rank: int,
        world_size: int,
        read_ahead: int = 0,
    ) -> None:
        if batch_size % (world_size * num_micro_batches):
            raise UserError(
                f"batch size {batch_size} is not a multiple of {world_size} ranks x"
                f" {num_micro_batches} micro-batches"
            )
        self._sources, self._order, self._masker = sources, order, masker
        self._batch_size, self._num_micro = batch_size, num_micro_batches
        self._rank, self._world = rank, world_size
        self._look_ahead = None
        if read_ahead and any(source.window_bytes for source in sources):
            self._look_ahead = LookAhead(sources, order, self._draws, read_ahead)
        for source in sources:
            masker.compile(source.gather(np.zeros(2, np.int64)))

    def __getitem__(self, step: int) -> list[MaskedBatch]:
        if self._look_ahead is not None:
            self._look_ahead(step)
        parts = self._draws(step).reshape(self._num_micro, -1)
        return [self._masker(self.tokens(draws), draws) for draws in parts]

    def _draws(self, step: int) -> np.ndarray:
        """Draws of this rank at a step, of one micro-batch after another."""
        each = self._batch_size // (self._world * self._num_micro)
        micro = np.arange(self._num_micro)[:, None] * self._world + self._rank
        return (step * self._batch_size + micro * each + np.arange(each)).reshape(-1)

    def tokens(self, draws: np.ndarray) -> SampleTokens:
        """Samples of the draws (B,), before masking."""
        drawn = self._order(draws)
        if len(self._sources) == 1:  # its numbers are all 0
            return self._sources[0].gather(drawn.sample)
        parts, at = [], []
        for i, source in enumerate(self._sources):
            places = np.flatnonzero(drawn.source == i)
            if len(places):
                parts.append(source.gather(drawn.sample[places]))
                at.append(places)
        return _merge(parts, at, drawn.source)


def _merge(parts: list[SampleTokens], at: list[np.ndarray], source: np.ndarray) -> SampleTokens:
    """Samples of several sources in the order of their draws; what a source lacks has length 0."""
    num = len(source)
    samples = np.zeros(num, np.int64)
    for part, places in zip(parts, at, strict=True):
        samples[places] = part.samples
    content = {}
    for name in dict.fromkeys(name for part in parts for name in part.content):
        elements: list[Elements] = []
        of_part, starts, lengths = np.zeros((3, num), np.int64)
        for part, places in zip(parts, at, strict=True):
            held = part.content.get(name)
            if held is not None:
                of_part[places] = held.part + len(elements)
                starts[places], lengths[places] = held.starts, held.lengths
                elements += held.parts
        content[name] = Ragged(tuple(elements), of_part, starts, lengths)
    return SampleTokens(samples, content, source)


def fixed_batch(
    source: Source, modalities: ModalitySet, masking: MaskingConfig, seed: int, samples: np.ndarray
) -> MaskedBatch:
    """A batch with masks that depend on the samples' numbers alone: for evaluation."""
    return Masker(modalities, masking, seed)(source.gather(samples), samples)
