"""Tables and data sets with a column for each modality, ``--columns rgb=picture,height=elev_file``.

A cell names a file (with an extension that the modality's raw type reads; from the table's folder),
or holds the bytes of one, or is the value itself: a text, a number, words between commas, JSON
lists of boxes or numbers. An empty cell is a modality that the sample lacks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage
from fourm.errors import UserError, listed, nearest
from fourm.modalities import Modality
from fourm.raw import Raw
from fourm_data_prep.paired import Sample
from fourm_data_prep.parts import Encoded, File, Part, Value, extension_of, extensions_of
from fourm_data_prep.picture_shards import plain_key
from fourm_data_prep.splits import Place, Split
from fourm_data_prep.tables import GROUP_COLUMNS, cell_text, find_column, one_caption, read_lines

KEY_COLUMNS = ("__key__", "key", "image_id", "id")


def parse_columns(given: Sequence[str]) -> dict[str, str]:
    """``("rgb=picture,caption=text",)`` -> modality -> column. Raises UserError for less."""
    found: dict[str, str] = {}
    for text in (part for one in given for part in one.split(",") if part.strip()):
        name, sign, column = (part.strip() for part in text.partition("="))
        if not sign or not name or not column:
            raise UserError(f"--columns {text!r} is not of the form modality=column")
        if name in found:
            raise UserError(f"--columns names modality {name} twice")
        found[name] = column
    return found


def check_columns(columns: Mapping[str, str], has: Sequence[str], where: str) -> None:
    """Raises UserError for a column that a source has not."""
    for name, column in columns.items():
        if column not in has:
            raise UserError(
                f"--columns {name}={column}: {where} has no column {column!r}; it has"
                f" {listed(has)}{nearest(column, has)}"
            )


@dataclass(frozen=True)
class RowReader:
    """Rows, whatever they come from -> samples."""

    columns: Mapping[str, str]  # modality -> column
    raws: Mapping[str, Raw]
    split: Split
    folder: str  # that file names are relative to
    origin: str

    @staticmethod
    def of(
        columns: Mapping[str, str], made: list[Modality], split: Split, folder: str, origin: str
    ) -> RowReader:
        """A reader of the modalities that ``columns`` names."""
        return RowReader(columns, {m.name: m.raw for m in made}, split, folder, origin)

    def samples(
        self, rows: Iterable[tuple[str, Mapping[str, Any]]], damage: list[Damage]
    ) -> Iterator[Sample]:
        """Samples of (what a row is called, row); those without a split go to the damage."""
        seen: set[tuple[str, str]] = set()
        for name, row in rows:
            parts: dict[str, Part] = {}
            for modality, column in self.columns.items():
                where = f"{name}, column {column}"
                part = part_of(row.get(column), self.raws[modality], self.folder, where)
                if part is not None:
                    parts[modality] = part
            file = next((p.where for p in parts.values() if isinstance(p, File)), "")
            key = plain_key(self._label(row, file) or name)
            group = find_column(list(row), GROUP_COLUMNS)
            folders = Path(file).parts[:-1]
            place = Place(key, folders, row, cell_text(row[group]) if group else "")
            try:
                split = self.split.of(place)
            except UserError as error:
                damage.append(Damage(self.origin, key, f"{name}: {error}"))
                continue
            if (split, key) in seen:  # ids that are none, names in several folders
                key = f"{key}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
            seen.add((split, key))
            yield Sample(key, parts, split, self.origin)

    def _label(self, row: Mapping[str, Any], file: str) -> str:
        """The key of a row: what its key column says, or the name of its first file."""
        column = find_column(list(row), KEY_COLUMNS)
        told = cell_text(row[column]) if column else ""
        return told or "-".join(Path(file).with_suffix("").parts).lstrip("/-") if file else told


def part_of(cell: Any, raw: Raw, folder: str, where: str) -> Part | None:
    """What a cell holds; None for an empty one."""
    if isinstance(cell, Mapping) and set(cell) <= {"bytes", "path"}:  # as datasets keeps files
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str):
        cell = cell.strip()
    if isinstance(cell, bytes):
        return Encoded(cell, where) if cell else None
    if cell is None or (isinstance(cell, (str, list)) and not len(cell)):
        return None
    if isinstance(cell, float) and math.isnan(cell):  # what tables of numbers leave empty
        return None
    if raw.extensions[0] == "txt":
        cell = one_caption(cell)
    if isinstance(cell, str) and _names_file(cell, raw, folder):
        return File(folder, cell)
    return Value(cell, where)


def _names_file(cell: str, raw: Raw, folder: str) -> bool:
    """True for a text that ends as a file of the type; texts of several words may end so, too."""
    if extension_of(cell) not in extensions_of(raw) or "\n" in cell:
        return False
    is_word = raw.extensions[0] != "txt" or " " not in cell
    return is_word or Path(folder, cell).is_file()


def samples_of_table(
    path: Path, columns: Mapping[str, str], made: list[Modality], split: Split
) -> tuple[list[Sample], list[Damage]]:
    """The samples of a table, and lines that are none. Raises UserError for columns it has not."""
    names, lines = read_lines(path)
    check_columns(columns, names, str(path))
    split.check(names, str(path))
    damage: list[Damage] = []
    reader = RowReader.of(columns, made, split, str(path.parent), str(path))
    samples = list(reader.samples(_rows(path, lines, damage.append), damage))
    return samples, damage


def _rows(
    path: Path, lines: Iterable[tuple[int, Any]], report: Callable[[Damage], None]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in lines:
        if isinstance(line, dict):
            yield f"line {number}", line
        else:
            report(Damage(str(path), f"line {number}", "holds no columns"))
