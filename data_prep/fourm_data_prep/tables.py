"""Tables that say something of pictures: CSV, TSV, JSON lines, Parquet.

A line that says nothing of any file is listed and left out; the rest of its table is read. A TSV
has a sample a line, as CC12M's: quotation marks in it are text unless they enclose a whole field.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage
from fourm.errors import UserError, listed
from fourm.files.json_files import parse_json

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
CAPTION_COLUMNS = (
    "caption",
    "text",
    "txt",
    "title",
    "description",
    "alt",
    "annotation",
    "captions",
)  # the first that a table has
FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "name")
GROUP_COLUMNS = ("group", "subject")


@dataclass(frozen=True)
class Row:
    """What a table says of a picture."""

    caption: str = ""
    group: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Rows by file name, and lines that name none."""

    rows: dict[str, Row] = field(default_factory=dict)
    damage: tuple[Damage, ...] = ()
    columns: tuple[str, ...] = ()

    def __or__(self, other: Table) -> Table:
        return Table(
            self.rows | other.rows, self.damage + other.damage, self.columns + other.columns
        )


def read_table(path: Path) -> Table:
    """Rows of one table. Raises UserError for one that names no files or cannot be read."""
    columns, lines = read_lines(path)
    file_column = find_column(columns, FILE_COLUMNS)
    caption_column = find_column(columns, CAPTION_COLUMNS)
    group_column = find_column(columns, GROUP_COLUMNS)
    if file_column is None:
        raise UserError(
            f"{path} needs a column of file names ({', '.join(FILE_COLUMNS)}); it has"
            f" {listed(columns)}"
        )
    rows, damage = {}, []
    for number, line in lines:
        name = cell_text(line.get(file_column)) if isinstance(line, dict) else ""
        if not name:
            damage.append(Damage(str(path), f"line {number}", "names no file"))
            continue
        caption = one_caption(line.get(caption_column)) if caption_column else ""
        group = cell_text(line.get(group_column)) if group_column else ""
        rows[name] = Row(caption, group, line)
    return Table(rows, tuple(damage), tuple(columns))


def find_column(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    """The first of the wanted columns that there is, whatever its capitals."""
    named = {name.strip().lower(): name for name in columns}
    return next((named[name] for name in wanted if name in named), None)


def one_caption(value: Any) -> str:
    """A cell's caption; of several the first that says anything."""
    if isinstance(value, list | tuple):
        return next((text for text in map(cell_text, value) if text), "")
    return cell_text(value)


def cell_text(value: Any) -> str:
    """A cell as a line; an empty one as nothing."""
    return "" if value is None else str(value).strip()


def read_lines(path: Path) -> tuple[list[str], list[tuple[int, Any]]]:
    """Column names, and the numbered lines below them, each a mapping or what JSON lines hold else.

    Raises UserError for a table that cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    # a byte order mark is no part of the first column's name
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as stream:
        if suffix == ".jsonl":
            return _json_lines(path, stream)
        if suffix == ".tsv":
            split = enumerate((_tab_separated(line) for line in stream), 1)
        else:
            split = _comma_separated(path, stream)
        columns = next((fields for _, fields in split), [])
        return columns, [
            (number, dict(zip(columns, fields, strict=False))) for number, fields in split if fields
        ]


def _comma_separated(path: Path, stream: Any) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(stream, strict=True)
    try:
        for fields in reader:
            yield reader.line_num, fields
    except csv.Error as error:  # an open quotation mark would swallow the lines that follow
        raise UserError(f"{path}, near line {reader.line_num}: {error}") from None


def _tab_separated(line: str) -> list[str]:
    fields = line.rstrip("\r\n").split("\t")
    return [_unquoted(text) for text in fields] if any(fields) else []


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _json_lines(path: Path, stream: Any) -> tuple[list[str], list[tuple[int, Any]]]:
    lines = []
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        lines.append((number, parse_json(line, f"{path}, line {number},")))
    found = [line for _, line in lines if isinstance(line, dict)]
    return list(dict.fromkeys(str(name) for line in found for name in line)), lines


def _parquet(path: Path) -> tuple[list[str], list[tuple[int, Any]]]:
    try:
        from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"{path} needs pyarrow: pip install pyarrow") from None
    try:
        table = parquet.read_table(path)
        rows = table.to_pylist()  # which looks at the bytes of texts and the days of dates
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return table.column_names, list(enumerate(rows, 1))
