"""Masks as 0.4.0 drew them: what is learned from them must still be what it was then.

All but one rule is that of today. A window into a target that is too long might begin so late that
fewer ids remained than were asked for; the rest was padding, which was learned too.
"""

from __future__ import annotations

import numpy as np
import torch

from fourm.batches.batch import MaskedBatch, Vectors
from fourm.batches.masking import MaskingConfig, _scale
from fourm.batches.tokens import SampleTokens
from fourm.modalities import ModalitySet
from tests import vectorised_spans
from tests.vectorised_masking import PaddedTokens, VectorisedMasker
from tests.vectorised_spans import Spans


class SpansOf040(Spans):
    """Spans with the windows of then."""

    def window_starts(self, wanted: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Any span, or the earliest from which the tail fits where too few ids remain."""
        last = self.target_lengths - 1
        place = np.arange(self.target_starts.shape[1])[None]
        starts = self.target_starts & (place < last[:, None])
        count = starts.sum(1)
        pick = np.minimum((uniform * count).astype(np.int64), count - 1)
        nth = np.cumsum(starts, axis=1) - 1
        drawn = (starts & (nth == pick[:, None])).argmax(1)
        tail_fits = starts & (last[:, None] - place <= wanted[:, None])
        earliest = np.where(tail_fits.any(1), tail_fits.argmax(1), 0)
        start = np.where(last - drawn >= wanted, drawn, earliest)
        return np.where((last <= wanted) | (wanted == 0), 0, start)


class MaskerOf040(VectorisedMasker):
    """Takes today's samples, and today's list of maskings, which had one member then."""

    def __init__(
        self, modalities: ModalitySet, masking: MaskingConfig | list[MaskingConfig], seed: int
    ) -> None:
        (config,) = masking if isinstance(masking, list) else [masking]
        super().__init__(modalities, config, seed)

    def __call__(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:  # type: ignore[override]
        kinds = {m.name: m.kind for m in self.modalities}
        arrays = {name: held.padded() for name, held in tokens.content.items()}
        lengths = {name: held.lengths for name, held in tokens.content.items()}
        vectors = {n: self._floats(n, a) for n, a in arrays.items() if kinds[n] == "continuous"}
        ids = {n: a.astype(np.int64) for n, a in arrays.items() if n not in vectors}
        return super().__call__(PaddedTokens(tokens.samples, ids, lengths, vectors), draws)

    def _floats(self, name: str, values: np.ndarray) -> np.ndarray:
        """Patches (B, L, C) as the floats that they were then."""
        m, flat = self.modalities[name], torch.from_numpy(values)
        scale = _scale(m) if values.dtype == np.uint8 else None
        return Vectors(torch.zeros(0), flat, scale).floats().numpy()

    def compile(self, tokens: SampleTokens) -> None:
        """Nothing is compiled."""


def use(patch) -> None:
    """Let trainings draw the masks of then."""
    patch.setattr(vectorised_spans, "Spans", SpansOf040)
    for module in ("fourm.training.pretrain", "fourm.data.masked_batches"):
        patch.setattr(f"{module}.Masker", MaskerOf040)
