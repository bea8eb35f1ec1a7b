"""The grammar of what a sequence with gaps is answered.

As in training (``spans.py``) an answer is [S_1], the ids of the first gap, [S_2], those of the
second ... and what closes the last: the next sentinel, or [END] where the sequence is open-ended.
``Answer`` lets nothing else be said. Of what is given in part the gaps follow the form of its items
(``item_form.py``). Shapes: B samples, L ids, V ids of the vocabulary.
"""

from __future__ import annotations

import numpy as np

from fourm.errors import UserError
from fourm.item_form import Gap, ItemForm
from fourm.modalities import END_ID, FIRST_SENTINEL, SENTINEL_ID


class Answer:
    """How far the answers of B samples are, and what each may say next.

    A gap gets at least one id. It closes where it holds ``most_of_gap`` ids, or where more would
    leave none for the gaps behind it: no filled sequence has more than ``most`` ids. Items that a
    gap has begun are ended, even where it holds more than ``most_of_gap`` by then.
    """

    def __init__(
        self,
        given: list[np.ndarray],
        last_sentinel: int,
        most: int,
        most_of_gap: int,
        form: ItemForm | None = None,
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
        self._form = form
        # by sample with gaps beside what is given: its gaps in the form of items, and where it is
        self._gaps: dict[int, list[Gap]] = {}
        for i, (ids, mark) in enumerate(zip(given, marks, strict=True)):
            if form is not None and mark.any() and not mark.all():
                last = len(ids) - (ids[-1] == END_ID)
                gaps = form.gaps(ids[:last], mark[:last])
                if gaps is not None:
                    self._gaps[i] = gaps
        self._place = {i: gaps[0].place for i, gaps in self._gaps.items()}
        for i in self._gaps:
            if self._left(i) < self._fewest(i, 0):
                raise UserError(
                    f"what is given leaves {self._left(i)} ids of {most} for its gaps, which need"
                    f" {self._fewest(i, 0)}: give less of it"
                )

    def banned(self, never: np.ndarray) -> np.ndarray:
        """Mask (B, V) of what may not come next, ``never`` (V,) included."""
        banned = np.tile(never, (len(self._gap), 1))
        banned[:, END_ID] = banned[:, SENTINEL_ID : self._last_sentinel + 1] = True
        banned[(self._held >= self._most_of_gap) | self._is_full] = True
        closable = np.flatnonzero((self._held > 0) | self._ends_here)
        closing = self._closing[closable]
        banned[closable, closing] = never[closing] & self._ends_here[closable]
        for i in self._gaps:
            if not self.finished[i]:
                banned[i] = self._out_of_form(i, never)
        return banned

    def add(self, ids: np.ndarray) -> None:
        """What was said (B,); samples that have finished are past caring."""
        closes = ids == self._closing
        for i, gaps in self._gaps.items():
            self._move(i, gaps, int(ids[i]), bool(closes[i]))
        self._held = np.where(closes, 0, self._held + 1)
        self._room -= self._held > 1
        self._gap += closes
        # the end of an open one needs no id of its own where it is full
        self.finished |= (self._gap > self.num_gaps) | (self._ends_here & self._is_full)

    def _out_of_form(self, i: int, never: np.ndarray) -> np.ndarray:
        """Mask (V,) of what a sample whose items have a form may not say next."""
        form, gap, place = self._form, self._gaps[i][self._gap[i] - 1], self._place[i]
        assert form is not None
        closable = gap.closes(place) and (self._held[i] > 0 or self._ends_here[i])
        room = self._left(i) - self._fewest(i, self._gap[i])
        told = [
            kind
            for kind in form.all_kinds
            if gap.told(place, kind, self._held[i] == 0, room) is not None
        ]
        if closable and self._held[i] >= self._most_of_gap:
            told = []
        banned = never | ~np.isin(form.kinds, told)
        banned[END_ID] = banned[SENTINEL_ID : self._last_sentinel + 1] = True
        banned[self._closing[i]] = not closable
        return banned

    def _move(self, i: int, gaps: list[Gap], said: int, closes: bool) -> None:
        assert self._form is not None
        if self.finished[i]:
            return
        if not closes:
            place = self._form.after(self._place[i], int(self._form.kinds[said]))
            assert place is not None
            self._place[i] = place
        elif self._gap[i] < len(gaps):
            self._place[i] = gaps[self._gap[i]].place

    def _left(self, i: int) -> int:
        """Ids that a sample's gaps may still hold, from the one on where it is."""
        ahead = self.num_gaps[i] - self._gap[i] + (self._held[i] == 0)
        return int(self._room[i] + ahead)

    def _fewest(self, i: int, first: int) -> int:
        """Ids that a sample's gaps hold at least, from number ``first`` on."""
        gaps = self._gaps[i]
        fewest = [gap.fewest for gap in gaps]
        if self.is_open[i] and gaps[-1].closes(gaps[-1].place):
            fewest[-1] = 1
        return sum(fewest[first:])

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
