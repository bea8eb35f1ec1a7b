"""Sequences with gaps: the spans that are decoded for the sentinels in what is given. Shapes: L ids
of a sequence, V of the vocabulary.
"""

from __future__ import annotations

import numpy as np

from fourm.modalities import FIRST_SENTINEL, PAD_ID, START_ID, UNKNOWN_ID
from fourm.sampling.answers import is_sentinel


def forbidden_ids(vocab_size: int) -> np.ndarray:
    """Mask (V,) of ids that are never generated."""
    mask = np.zeros(vocab_size, dtype=bool)
    mask[[PAD_ID, UNKNOWN_ID, START_ID]] = True
    return mask


def fill_gaps(given: np.ndarray, decoded: np.ndarray, last_sentinel: int) -> np.ndarray:
    """A given sequence with each sentinel replaced by what ``decoded`` says behind it, if any."""
    if not len(given):
        given = np.array([FIRST_SENTINEL])
    starts = np.flatnonzero(is_sentinel(decoded, last_sentinel))
    spans = {
        decoded[at]: span[1:]
        for at, span in zip(starts, np.split(decoded, starts)[1:], strict=True)
    }
    marks = is_sentinel(given, last_sentinel)
    parts = [spans.get(i, [i]) if mark else [i] for i, mark in zip(given, marks, strict=True)]
    return np.concatenate(parts).astype(np.int64)
