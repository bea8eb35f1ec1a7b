"""What a gap among given words or items may be told, so that what was given stays what it was.

A list of boxes is spelled item by item, ``v0= v1= v2= v3= red cube``. A model that was never shown
a part of such a list begins in the midst of an item, breaks off in a label or writes coordinates
into one. Ids of a gap therefore follow the form of items: they begin where the given ids before
them stop and close where those behind may follow. A gap behind a whole item is for whole items, one
within an item ends with it, none begins with a piece that would grow onto the word before it.

A place is the number of coordinates that an item holds so far, C in all; behind them a word is due
(place C), then more may follow (place C + 1, where an item may end). Texts have C = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

WORD, PIECE = -1, -2  # kinds of ids that are no coordinates: a word's beginning, its going on
_LABEL = 4  # ids of most labels: an item is begun where as many have room


@dataclass(frozen=True)
class ItemForm:
    """The form of items of C coordinates and a label."""

    kinds: np.ndarray  # (V,) axis of a coordinate, WORD or PIECE
    num_coordinates: int

    @cached_property
    def all_kinds(self) -> list[int]:
        """Kinds that there are."""
        return np.unique(self.kinds).tolist()

    @property
    def whole(self) -> int:
        """The place where an item may end."""
        return self.num_coordinates + 1

    def after(self, place: int, kind: int) -> int | None:
        """The place behind an id, None where that id may not come."""
        c = self.num_coordinates
        if kind == WORD or (kind >= c and place >= c):  # a text's coordinates are words
            return self.whole if place >= c else None
        if kind == PIECE:
            return place if place == self.whole else None
        return kind + 1 if kind == place or (kind == 0 and place == self.whole) else None

    def gaps(self, ids: np.ndarray, marks: np.ndarray) -> list[Gap] | None:
        """The gaps of given ids (L,), without their end, where ``marks`` (L,); None where other ids
        are given than the form allows.
        """
        found, place, in_gap = [], 0, False
        kinds = [None if mark else int(self.kinds[i]) for i, mark in zip(ids, marks, strict=True)]
        for kind, behind in zip(kinds, [*kinds[1:], None], strict=True):
            if kind is None:
                found.append(Gap(self, self.whole if in_gap else place, behind))
                in_gap = True
                continue
            # a gap may end at any place that lets it come
            places = range(self.whole + 1) if in_gap else (place,)
            after = [p for p in (self.after(before, kind) for before in places) if p is not None]
            if not after:
                return None
            place, in_gap = after[0], False
        return found


@dataclass(frozen=True)
class Gap:
    """One gap: the place where it begins, and the kind of the id behind it, None = the end, or a
    gap again.
    """

    form: ItemForm
    place: int
    behind: int | None

    def closes(self, place: int) -> bool:
        """True where what is given behind the gap may follow."""
        if self.behind is None:
            return place in (0, self.form.whole)
        return self.form.after(place, self.behind) is not None

    def after(self, place: int, kind: int, is_first: bool) -> int | None:
        """``ItemForm.after`` in this gap, whose first id has more to heed."""
        whole = self.form.whole
        begins_item = self.form.num_coordinates > 0 and kind == 0 and place == whole
        if is_first and (
            kind == PIECE or (self.form.num_coordinates and place == whole and not begins_item)
        ):
            return None
        if begins_item and self._stays:
            return None
        return self.form.after(place, kind)

    def least(self, place: int) -> int:
        """Ids that are needed from a place until the gap may close."""
        return self._least[place]

    def told(self, place: int, kind: int, is_first: bool, room: int) -> int | None:
        """``after`` where at most ``room`` ids have room in the gap."""
        after = self.after(place, kind, is_first)
        if after is None or 1 + self._least[after] > room:
            return None
        begins_another = after == 1 and self.form.num_coordinates > 0 and not is_first
        return None if begins_another and self.form.whole + _LABEL > room + 1 else after

    @cached_property
    def _stays(self) -> bool:
        """True where the item in which the gap begins is the one in which it ends."""
        return 0 < self.place < self.form.whole and any(
            self.closes(place) for place in range(self.place + 1, self.form.whole + 1)
        )

    @cached_property
    def _least(self) -> Sequence[int]:
        """For each place the fewest ids until the gap may close; too many where it never may."""
        num = self.form.whole + 1
        least = [0 if self.closes(place) else 1_000_000 for place in range(num)]
        for _ in range(num):
            for place in range(num):
                for kind in (*range(self.form.num_coordinates), WORD):
                    after = self.after(place, kind, False)
                    if after is not None:
                        least[place] = min(least[place], 1 + least[after])
        return least

    @cached_property
    def fewest(self) -> int:
        """Ids that the gap holds at least: one, however little is needed."""
        kinds = (*range(self.form.num_coordinates), WORD)
        firsts = (self.after(self.place, kind, True) for kind in kinds)
        return 1 + min(self._least[place] for place in firsts if place is not None)
