"""Sequences with gaps: sentinels in what is given, and the spans that are decoded for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fourm.modalities import END_ID, FIRST_SENTINEL, PAD_ID, START_ID, UNKNOWN_ID


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
