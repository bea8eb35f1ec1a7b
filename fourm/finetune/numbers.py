"""Numbers of samples to be predicted: columns of a table, or a modality of lists of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fourm.data.shards import DamageReport
from fourm.errors import UserError, shown
from fourm.evaluation.held_out import Shards
from fourm.features.labels import TableLabels
from fourm.modalities import Modality, ModalitySet
from fourm.raw.numbers import Numbers


class NumberLabels(Protocol):
    """Something that knows C numbers by the samples' keys (``<shard>/<key>``)."""

    def names(self, count: int) -> tuple[str, ...]:
        """What they are called, where a sample has ``count``."""
        ...

    def of(self, keys: list[str], split: str) -> list[list[float] | None]:
        """Of each sample, None where they are not known. Raises UserError for what is none."""
        ...


@dataclass(frozen=True)
class TableNumbers:
    """``labels.csv:x,y``: one column or several."""

    columns: tuple[TableLabels, ...]

    def names(self, count: int) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def of(self, keys: list[str], split: str) -> list[list[float] | None]:
        each = zip(*(column.of(keys, split) for column in self.columns), strict=True)
        return [
            None if None in texts else [self._number(text, i) for i, text in enumerate(texts)]
            for texts in each
        ]

    def _number(self, text: str | None, column: int) -> float:
        try:
            found = float(text or "")
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            place = self.columns[column]
            raise UserError(
                f"{place.path}, column {place.name}: {shown(text)} is no number; classes are"
                " learned without numbers: true"
            )
        return found


@dataclass(frozen=True)
class ModalityNumbers:
    """Lists of numbers, all equally long."""

    modality: Modality
    data: Path

    def names(self, count: int) -> tuple[str, ...]:
        name = self.modality.name
        return (name,) if count == 1 else tuple(f"{name}[{i}]" for i in range(count))

    def of(self, keys: list[str], split: str) -> list[list[float] | None]:
        column = Shards.find(self.data, split).raw_of(self.modality)
        if column is None:
            raise UserError(f"{self.data}: split {split} has no raw {self.modality.raw_name}")
        values = column.read(set(keys), DamageReport())
        return [[float(n) for n in values[key]] if key in values else None for key in keys]


def numbers_of(text: str, modalities: ModalitySet, data: Path) -> NumberLabels:
    """``TABLE.csv:COLUMN[,COLUMN]...`` or a modality's name. Raises UserError."""
    table, colon, columns = text.rpartition(":")
    if not colon:
        m = modalities[text]
        if not isinstance(m.raw, Numbers):
            raise UserError(
                f"values of {text} are of type {m.raw.type_name}; numbers: true is for columns of a"
                " table and for modalities of type numbers"
            )
        return ModalityNumbers(m, data)
    if not Path(table).is_file():
        raise UserError(f"no table {table}: a target is TABLE.csv:COLUMN, or a modality's name")
    return TableNumbers(tuple(TableLabels(Path(table), name) for name in columns.split(",")))
