"""From token rows to vectors: one look-up into the concatenated vocabulary, plus position, plus
modality.

Cost follows the number of rows, not of modalities. Ids that are FSQ codes are also described by
their levels: the vector of a code is its own plus one for each of its levels, and so are the rows
of the output head. Codes that agree in a level share what is learned about it, which lets a
vocabulary of thousands be learned from few samples; the codes' own vectors begin at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.modalities import Modality, ModalitySet
from fourm.model.lookups import LookUps
from fourm.model.pieces import GradientSlot, cut
from fourm.model.roles import LOOKED_UP, TABLE, state_roles

TOKEN_STD = 0.3  # sin-cos positions have 0.7: place counts for more than content at the start


@dataclass(frozen=True)
class Head:
    """Output weights of a vocabulary."""

    weight: Tensor  # (V, D)
    slot: GradientSlot | None = None  # where their gradient may be written


class TokenTable(nn.Module):
    """Vectors (V, D) of the ids of some modalities' vocabularies, factorised over FSQ levels where
    a modality has them.

    Args:
        modalities: the whole set; rows are addressed by a modality's index in it.
        members: the modalities whose ids this table holds. Those that share a vocabulary share its
            rows.
    """

    level_index: Tensor
    start: Tensor

    def __init__(
        self, modalities: ModalitySet, members: list[Modality], dim: int, std: float
    ) -> None:
        super().__init__()
        self.std = std
        sizes: dict[str, int] = {}
        levels: dict[str, tuple[int, ...]] = {}
        for m in members:
            sizes.setdefault(m.vocab or m.name, m.vocab_size)
            levels.setdefault(m.vocab or m.name, m.levels)
        starts = np.cumsum([0, *sizes.values()]).tolist()
        # name -> start, size
        self.vocabularies = dict(
            zip(sizes, zip(starts[:-1], sizes.values(), strict=True), strict=True)
        )
        own = [self.vocabularies.get(m.vocab or m.name, (0, 0))[0] for m in modalities]
        self.register_buffer("start", torch.tensor(own), persistent=False)
        self.table = nn.Parameter(torch.empty(starts[-1], dim))
        self.look_ups: LookUps | None = None
        state_roles(self, table=TABLE)
        index, self.num_level_rows = _level_index(sizes, levels)
        self.register_buffer("level_index", index, persistent=False)
        # for the head of each vocabulary that has levels: its rows of the level table, and which
        # of them each id has
        self.level_rows: dict[str, tuple[int, int]] = {}
        first = 1
        for vocabulary, of in levels.items():
            if of:
                self.level_rows[vocabulary] = (first, first + sum(of))
                matrix = _members(of, sizes[vocabulary])
                self.register_buffer(_members_name(vocabulary), matrix, persistent=False)
                first += sum(of)
        self.levels = None
        if self.num_level_rows > 1:
            self.levels = nn.Parameter(torch.empty(self.num_level_rows, dim))
            state_roles(self, levels=TABLE)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal vectors; codes of levels begin at zero, so that their levels say all of them."""
        nn.init.normal_(self.table, std=self.std)
        if self.levels is not None:
            with torch.no_grad():
                nn.init.normal_(self.levels, std=self.std / self.level_index.shape[1] ** 0.5)
                self.levels[0] = 0.0
                self.table[self.level_index[:, 0] > 0] = 0.0

    def only_look_up(self) -> None:
        """The table is no head: a batch reads rows of it and nothing else does."""
        state_roles(self, table=LOOKED_UP)
        self.look_ups = LookUps()

    def forward(self, modality: Tensor, ids: Tensor) -> Tensor:
        """Modality and id within its vocabulary, both (T,) -> vectors (T, D).

        Rows of modalities that are no members mean nothing.
        """
        rows = self.start[modality] + ids
        look_ups = self.look_ups
        vectors = F.embedding(rows, self.table) if look_ups is None else look_ups(self.table, rows)
        if self.levels is not None:
            vectors = vectors + F.embedding(self.level_index[rows], self.levels, padding_idx=0).sum(
                1
            )
        return vectors

    def weights(self, m: Modality) -> Tensor:
        """The vectors of one modality's vocabulary (V_m, D), as the weight of an output head."""
        vocabulary = m.vocab or m.name
        start, size = self.vocabularies[vocabulary]
        self._note_all()
        return self._with_levels(self.table[start : start + size], vocabulary)

    def heads(self, wanted: set[str]) -> dict[str, Head]:
        """Output heads of these vocabularies by name.

        All are cut from the table at once: a slice for each would cost a whole table's gradient
        each.
        """
        self._note_all()
        pieces = cut(self.table, [size for _, size in self.vocabularies.values()])
        return {
            name: Head(self._with_levels(piece, name), slot)
            for name, (piece, slot) in zip(self.vocabularies, pieces, strict=True)
            if name in wanted
        }

    def unused(self, wanted: set[str]) -> list[Tensor]:
        """Parameters that ``heads`` of these vocabularies does not depend on."""
        found: list[Tensor] = [] if wanted else [self.table]
        if self.levels is not None and not wanted & set(self.level_rows):
            found.append(self.levels)
        return found

    def _note_all(self) -> None:
        if self.look_ups is not None:
            self.look_ups.note_all()

    def _with_levels(self, weight: Tensor, vocabulary: str) -> Tensor:
        if self.levels is None or vocabulary not in self.level_rows:
            return weight
        first, last = self.level_rows[vocabulary]
        members = self.get_buffer(_members_name(vocabulary)).to(weight.dtype)
        return weight + members @ self.levels[first:last]


def _members_name(vocabulary: str) -> str:
    return f"members_{vocabulary.replace('.', '_')}"  # names of buffers may not hold dots


def _members(levels: tuple[int, ...], size: int) -> Tensor:
    """(V, sum of levels): 1 where an id has a level, as ``_level_index`` numbers them."""
    rest, columns = torch.arange(size), []
    for level in levels:
        columns.append(F.one_hot(rest % level, level))
        rest = rest // level
    return torch.cat(columns, 1).float()


def _level_index(sizes: dict[str, int], levels: dict[str, tuple[int, ...]]) -> tuple[Tensor, int]:
    """(V, most levels): row of the level table for each level of each id; 0 = none."""
    most = max((len(of) for of in levels.values()), default=0)
    index = torch.zeros(sum(sizes.values()), max(most, 1), dtype=torch.long)
    next_row, start = 1, 0
    for vocab, size in sizes.items():
        rest = torch.arange(size)
        for i, level in enumerate(levels[vocab]):
            index[start : start + size, i] = next_row + rest % level
            rest = rest // level
            next_row += level
        start += size
    return index, next_row
