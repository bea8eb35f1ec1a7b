"""From token rows to vectors: one look-up into the concatenated vocabulary, plus position, plus modality.

Cost follows the number of rows, not of modalities. Ids that are FSQ codes are also described by their levels: the vector of a code
is its own plus one for each of its levels, and so are the rows of the output head. Codes that agree in a level share what is
learned about it, which lets a vocabulary of thousands be learned from few samples; the codes' own vectors begin at zero.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fourm.blocks import sincos_1d, sincos_2d
from fourm.modalities import ModalitySet

TOKEN_STD = 0.3  # sin-cos positions have 0.7: place counts for more than content at the start


class TokenTable(nn.Module):
    """Vectors (V, D) of all ids of all vocabularies, factorised over FSQ levels where a modality has them."""

    level_index: Tensor

    def __init__(self, modalities: ModalitySet, dim: int, std: float) -> None:
        super().__init__()
        self.std = std
        self._sizes = modalities.vocab_sizes
        self.table = nn.Parameter(torch.empty(modalities.total_vocab, dim))
        index, self.num_level_rows = _level_index(modalities)
        self.register_buffer("level_index", index, persistent=False)
        self.levels = nn.Parameter(torch.empty(self.num_level_rows, dim)) if self.num_level_rows > 1 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.table, std=self.std)
        if self.levels is not None:
            with torch.no_grad():
                nn.init.normal_(self.levels, std=self.std / self.level_index.shape[1] ** 0.5)
                self.levels[0] = 0.0
                self.table[self.level_index[:, 0] > 0] = 0.0

    def forward(self, rows: Tensor) -> Tensor:
        """Rows of the table (T,) -> vectors (T, D)."""
        vectors = F.embedding(rows, self.table)
        if self.levels is not None:
            vectors = vectors + F.embedding(self.level_index[rows], self.levels, padding_idx=0).sum(1)
        return vectors

    def weights(self, start: int, size: int) -> Tensor:
        """The vectors of one vocabulary (size, D), as the weight of an output head."""
        return self._with_levels(self.table[start : start + size], start, size)

    def all_weights(self, wanted: set[str]) -> dict[str, Tensor]:
        """``weights`` of several vocabularies by name. One split: a slice for each would cost a whole table's gradient each."""
        starts = np.cumsum([0, *self._sizes.values()]).tolist()
        tables = self.table.split(list(self._sizes.values()))
        return {
            name: self._with_levels(table, start, size)
            for (name, size), table, start in zip(self._sizes.items(), tables, starts[:-1], strict=True)
            if name in wanted
        }

    def _with_levels(self, weight: Tensor, start: int, size: int) -> Tensor:
        if self.levels is None or not self.level_index[start, 0]:
            return weight
        index = self.level_index[start : start + size]
        first, last = int(index[0].min()), int(index[-1].max()) + 1
        members = torch.zeros(size, last - first, dtype=weight.dtype, device=weight.device)
        members.scatter_(1, index[:, index[0] > 0] - first, 1.0)
        return weight + members @ self.levels[first:last]


def _level_index(modalities: ModalitySet) -> tuple[Tensor, int]:
    """(V, most levels): row of the level table for each level of each id; 0 = none."""
    most = max((len(m.levels) for m in modalities), default=0)
    index = torch.zeros(modalities.total_vocab, max(most, 1), dtype=torch.long)
    next_row, done = 1, set()
    for m in modalities:
        vocab = m.vocab or m.name
        if not m.levels or vocab in done:
            continue
        done.add(vocab)
        start, rest = modalities.vocab_offsets[m.name], torch.arange(m.vocab_size)
        for i, size in enumerate(m.levels):
            index[start : start + m.vocab_size, i] = next_row + rest % size
            rest = rest // size
            next_row += size
    return index, next_row


class PositionTable(nn.Module):
    """Positions of all modalities end to end: 2-D sin-cos for grids, 1-D for sequences, learned for sets."""

    fixed: Tensor
    learned_row: Tensor
    start: Tensor

    def __init__(self, modalities: ModalitySet, dim: int) -> None:
        super().__init__()
        fixed, learned_row, num_learned = [], [], 1
        for m in modalities:
            if m.grid is not None:
                fixed.append(sincos_2d(*m.grid, dim))
            elif m.kind == "set":
                fixed.append(torch.zeros(m.num_positions, dim))
            else:
                fixed.append(sincos_1d(m.num_positions, dim))
            learns = m.kind == "set" and m.grid is None
            learned_row.append(
                torch.arange(num_learned, num_learned + m.num_positions) if learns else torch.zeros(m.num_positions).long()
            )
            num_learned += m.num_positions if learns else 0
        self.register_buffer("fixed", torch.cat(fixed), persistent=False)
        self.register_buffer("learned_row", torch.cat(learned_row), persistent=False)
        self.register_buffer("start", torch.tensor(modalities.position_offsets), persistent=False)
        self.learned = nn.Parameter(torch.randn(num_learned, dim) * TOKEN_STD) if num_learned > 1 else None
        if self.learned is not None:
            self.learned.data[0] = 0.0

    def forward(self, modality: Tensor, position: Tensor) -> Tensor:
        """Modality and position of each row, (T,) both -> (T, D)."""
        row = self.start[modality] + position
        vectors = F.embedding(row, self.fixed)
        if self.learned is not None:
            vectors = vectors + F.embedding(self.learned_row[row], self.learned, padding_idx=0)
        return vectors
