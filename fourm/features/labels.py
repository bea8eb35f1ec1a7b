"""Class labels of samples: a column of a table, or a modality whose values are words or text."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fourm.data.shards import DamageReport
from fourm.errors import UserError, nearest
from fourm.evaluation.held_out import Shards
from fourm.modalities import Modality, ModalitySet


class Labels(Protocol):
    """Something that knows classes by the samples' keys (``<shard>/<key>``)."""

    @property
    def name(self) -> str:
        """What the label is called."""
        ...

    def of(self, keys: list[str], split: str) -> list[str | None]:
        """The class of each sample, None where it is not known."""
        ...


@dataclass(frozen=True)
class TableLabels:
    """``labels.csv:shape``: a column of a table that has a column ``key`` and, where keys of splits
    are the same, one called ``split``. A key is ``<key>`` or ``<shard>/<key>``.
    """

    path: Path
    name: str

    def __post_init__(self) -> None:
        with open(self.path, newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        for wanted in ("key", self.name):
            if wanted not in columns:
                raise UserError(
                    f"{self.path} has no column {wanted!r}; it has"
                    f" {', '.join(columns) or 'none'}{nearest(wanted, columns)}"
                )

    def of(self, keys: list[str], split: str) -> list[str | None]:
        with open(self.path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            mine = [row for row in rows if row.get("split", split) == split]
        known = {row["key"]: row[self.name] for row in mine if row[self.name]}
        return [known.get(key) or known.get(key.partition("/")[2]) for key in keys]


@dataclass(frozen=True)
class ModalityLabels:
    """A modality's values in a line of text, each different line a class."""

    modality: Modality
    data: Path

    @property
    def name(self) -> str:
        return self.modality.name

    def of(self, keys: list[str], split: str) -> list[str | None]:
        column = Shards.find(self.data, split).raw_of(self.modality)
        if column is None:
            raise UserError(f"{self.data}: split {split} has no raw {self.modality.raw_name}")
        values = column.read(set(keys), DamageReport())
        return [self.modality.raw.line(values[key]) if key in values else None for key in keys]


def labels_of(text: str, modalities: ModalitySet, data: Path) -> Labels:
    """``TABLE.csv:COLUMN`` or a modality's name."""
    table, colon, column = text.rpartition(":")
    if not colon:
        m = modalities[text]
        if m.raw.has_picture:
            raise UserError(f"values of {text} are pictures, no classes: name words or a text")
        return ModalityLabels(m, data)
    if not Path(table).is_file():
        raise UserError(f"no table {table}: --label is TABLE.csv:COLUMN, or a modality's name")
    return TableLabels(Path(table), column)
