"""The grammar of what a sequence with gaps is answered.

As in training (``spans.py``) an answer is [S_1], the ids of the first gap, [S_2], those of the
second ... and what closes the last: the next sentinel, or [END] where the sequence is open-ended.
``Answer`` lets nothing else be said. Shapes: B samples, L ids, V ids of the vocabulary.
"""

from __future__ import annotations

import numpy as np

from fourm.errors import UserError
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID


class Answer:
    """How far the answers of B samples are, and what each may say next.

    A gap gets at least one id. It closes where it holds ``most_of_gap`` ids, or where more would
    leave none for the gaps behind it: no filled sequence has more than ``most`` ids.
    """

    def __init__(
        self, given: list[np.ndarray], last_sentinel: int, most: int, most_of_gap: int
    ) -> None:
        given = [ids if len(ids) else np.array([FIRST_SENTINEL]) for ids in given]
        marks = [is_sentinel(ids, last_sentinel) for ids in given]
        self.num_gaps = np.array([mark.sum() for mark in marks])
        if self.num_gaps.max() + FIRST_SENTINEL > last_sentinel:
            raise UserError(
                f"a sequence has {self.num_gaps.max()} gaps;"
                f" {last_sentinel - FIRST_SENTINEL} are the most"
            )
        # what ends in a gap is ended by its answer
        self.is_open = np.array([mark[-1] for mark in marks])
        self.finished = self.num_gaps == 0
        self._room = most - np.array([(~mark).sum() for mark in marks]) - self.num_gaps
        self._most_of_gap, self._last_sentinel = most_of_gap or most, last_sentinel
        self._gap, self._held = np.ones_like(self.num_gaps), np.zeros_like(self.num_gaps)

    def banned(self, never: np.ndarray) -> np.ndarray:
        """Mask (B, V) of what may not come next, ``never`` (V,) included."""
        banned = np.tile(never, (len(self._gap), 1))
        banned[:, END_ID] = banned[:, SENTINEL_ID : self._last_sentinel + 1] = True
        banned[(self._held >= self._most_of_gap) | self._is_full] = True
        closable = np.flatnonzero((self._held > 0) | self._ends_here)
        closing = self._closing[closable]
        banned[closable, closing] = never[closing] & self._ends_here[closable]
        return banned

    def add(self, ids: np.ndarray) -> None:
        """What was said (B,); samples that have finished are past caring."""
        closes = ids == self._closing
        self._held = np.where(closes, 0, self._held + 1)
        self._room -= self._held > 1
        self._gap += closes
        # the end of an open one needs no id of its own where it is full
        self.finished |= (self._gap > self.num_gaps) | (self._ends_here & self._is_full)

    @property
    def _ends_here(self) -> np.ndarray:
        return self.is_open & (self._gap == self.num_gaps)

    @property
    def _closing(self) -> np.ndarray:
        return np.where(self._ends_here, END_ID, FIRST_SENTINEL + self._gap)

    @property
    def _is_full(self) -> np.ndarray:
        return (self._room <= 0) & (self._held > 0)


def is_sentinel(ids: np.ndarray, last_sentinel: int) -> np.ndarray:
    """Mask (L,) of the ids that mark gaps."""
    return (ids >= FIRST_SENTINEL) & (ids <= last_sentinel)
