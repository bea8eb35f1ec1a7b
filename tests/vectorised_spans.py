"""Sequences of a whole batch split into spans at once, as ``vectorised_masking`` hides them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.modalities import FIRST_SENTINEL


@dataclass(frozen=True)
class Spans:
    """Sequences split into an input with sentinels and the target that fills them in."""

    input_ids: np.ndarray  # (B, L) ids, sentinels in place of hidden spans
    input_mask: np.ndarray  # (B, L) True = part of the input
    target_ids: np.ndarray  # (B, 2 L + 2)
    target_lengths: np.ndarray  # (B,)
    # (B, 2 L + 2) True where a sentinel opens a span or closes the target
    target_starts: np.ndarray
    keep: np.ndarray  # (B, L) True = visible

    @property
    def num_predictions(self) -> np.ndarray:
        """(B,): the first sentinel is given, so a target of T ids is T - 1 predictions."""
        return np.maximum(self.target_lengths - 1, 0)

    def window_starts(self, wanted: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Where ``wanted`` (B,) predictions of each target begin (B,).

        0 if the whole target fits, else a random one of the spans after whose start so many remain.
        ``uniform`` (B,) are in (0, 1).
        """
        last = self.target_lengths - 1
        place = np.arange(self.target_starts.shape[1])[None]
        starts = self.target_starts & (place <= (last - wanted)[:, None])
        pick = (uniform * starts.sum(1)).astype(np.int64)
        nth = np.cumsum(starts, axis=1) - 1  # which start a place is, where it is one
        start = (starts & (nth == pick[:, None])).argmax(1)
        return np.where((last <= wanted) | (wanted == 0), 0, start)


def input_lengths(keep: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Ids of the input (B,), sentinels included, if ``keep`` (B, L) of ``lengths`` (B,) is kept."""
    inside = np.arange(keep.shape[1])[None] < lengths[:, None]
    return (keep & inside).sum(1) + _opens_a_run(inside & ~keep).sum(1)


def split_spans(ids: np.ndarray, lengths: np.ndarray, keep: np.ndarray, given: np.ndarray) -> Spans:
    """Hide what ``keep`` leaves out behind sentinels.

    Args:
        ids: (B, L), padded; lengths: (B,).
        keep: (B, L) True = visible.
        given: (B,) False: the input is empty and the target is [S_1], the whole sequence, [S_2].
    """
    b, most = ids.shape
    ids = ids.astype(np.int64)
    inside = np.arange(most)[None] < lengths[:, None]
    hidden = inside & (~keep | ~given[:, None])
    opens = _opens_a_run(hidden)
    number = np.cumsum(opens, axis=1)  # spans opened so far
    input_mask = inside & (~hidden | opens) & given[:, None]
    input_ids = np.where(opens, FIRST_SENTINEL + number - 1, ids)

    target = np.zeros((b, 2 * most + 2), dtype=np.int64)
    starts = np.zeros(target.shape, dtype=bool)
    # a hidden id comes after all hidden ids before it and the sentinels up to its own
    place = np.cumsum(hidden, axis=1) - 1 + number
    rows, columns = np.nonzero(hidden)
    target[rows, place[rows, columns]] = ids[rows, columns]
    rows, columns = np.nonzero(opens)
    sentinel = place[rows, columns] - 1
    target[rows, sentinel] = FIRST_SENTINEL + number[rows, columns] - 1
    starts[rows, sentinel] = True
    num_spans = opens.sum(1)
    end = hidden.sum(1) + num_spans
    target[np.arange(b), end] = FIRST_SENTINEL + num_spans
    starts[np.arange(b), end] = True
    return Spans(input_ids, input_mask, target, np.where(lengths > 0, end + 1, 0), starts, keep)


def _opens_a_run(mask: np.ndarray) -> np.ndarray:
    """True where ``mask`` (B, L) is and was not one place before."""
    before = np.pad(mask, ((0, 0), (1, 0)))[:, :-1]
    return mask & ~before
