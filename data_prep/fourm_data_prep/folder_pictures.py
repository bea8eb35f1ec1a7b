"""A folder of pictures with captions as a source, or a table that names them.

Captions come from the first line of ``<name>.txt`` beside the picture, or from a table with a
column of file names and one of captions.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw.text import Text
from fourm_data_prep.picture_shards import (
    PICTURE_KINDS,
    SHARD_PICTURES,
    Item,
    describe,
    plain_key,
    write_pictures,
)
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint
from fourm_data_prep.splits import Place, Shares, Split
from fourm_data_prep.tables import TABLE_SUFFIXES, Row, Table, read_table

PICTURE_SUFFIXES = tuple(f".{kind}" for kind in PICTURE_KINDS)


@dataclass(frozen=True)
class Found:
    """Pictures of a folder or table, and what there is of it that names none."""

    items: list[Item]
    damage: tuple[Damage, ...] = ()
    num_binary_notes: int = 0  # .txt files that are no text


def find_items(source: Path, split: Split | None = None) -> Found:
    """All pictures under a folder with their captions, by name; or those that a table names.

    Raises UserError if there are none.
    """
    split = split or Shares()
    if source.is_file() and source.suffix.lower() in TABLE_SUFFIXES:
        folder, table = source.parent, read_table(source)
        pictures = [folder / name for name in table.rows]
        notes = {note for path in pictures if (note := path.with_suffix(".txt")).is_file()}
    elif source.is_dir():
        folder, table = source, Table()
        for path in sorted(p for p in source.glob("*") if p.suffix.lower() in TABLE_SUFFIXES):
            table |= read_table(path)
        found = [
            Path(where, name) for where, _, names in os.walk(source) for name in names
        ]  # one listing, no stat of each file
        pictures = sorted(path for path in found if path.suffix.lower() in PICTURE_SUFFIXES)
        notes = {path for path in found if path.suffix == ".txt"}
    else:
        raise UserError(
            f"no folder {source}"
            if not source.is_file()
            else f"{source} is no folder and no table ({', '.join(TABLE_SUFFIXES)})"
        )
    if not pictures:
        raise UserError(f"no pictures in {source}: looking for {', '.join(PICTURE_SUFFIXES)}")
    split.check(table.columns or None, str(source))
    items, seen, num_binary, damage = [], set(), 0, list(table.damage)
    for path in pictures:
        relative = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        key = _free_key(relative, seen)
        note = path.with_suffix(".txt")
        rows = table.rows
        row = rows.get(str(relative), rows.get(path.name, rows.get(path.stem, Row())))
        caption = row.caption
        if note in notes:
            said = _first_line(note)
            num_binary += said is None
            caption = said if said is not None else caption
        try:
            of = split.of(Place(key, relative.parts[:-1], row.columns, row.group))
        except UserError as error:
            damage.append(Damage(str(path), key, str(error)))
            continue
        items.append(Item(key, path, " ".join(caption.split()), row.group, of))
    return Found(items, tuple(damage), num_binary)


def _free_key(relative: Path, seen: set[str]) -> str:
    """A key that no other file has: of its name, which others may share but for a suffix, a dot or
    a space.
    """
    plain = plain_key("-".join(relative.with_suffix("").parts))
    digest = hashlib.sha256(os.fsencode(relative)).hexdigest()[:8]
    suffix = relative.suffix[1:].lower()
    key = next(k for k in (plain, f"{plain}_{suffix}", f"{plain}_{digest}") if k not in seen)
    seen.add(key)
    return key


def _first_line(note: Path) -> str | None:
    """The first line that says anything; what follows (other captions, translations) is left out.
    None for a file that is no text.
    """
    data = note.read_bytes()
    if b"\0" in data:
        return None
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    try:
        return Text().check(next((line for line in lines if line.strip()), ""))
    except UserError:
        return None


class ImportStep:
    """Reads the pictures of each shard once and writes all its modalities."""

    name = "import"

    def __init__(self, made: list[Modality], splits: dict[str, list[Item]], out: Path) -> None:
        self.made, self.splits, self.out = made, splits, out

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        jobs = []
        for split, items in self.splits.items():
            for number, start in enumerate(range(0, len(items), SHARD_PICTURES)):
                part = items[start : start + SHARD_PICTURES]
                inputs = [[i.key, i.caption, *_state(i.path)] for i in part]
                jobs.append(Job(split, number, fingerprint(inputs)))
        return jobs

    def run(self, job: Job) -> ShardResult:
        items = self.splits[job.split][
            job.number * SHARD_PICTURES : (job.number + 1) * SHARD_PICTURES
        ]
        return write_pictures(((item, item.path) for item in items), self.made, self.out, job)


def _state(path: Path) -> list[int]:
    """Size and time of a file; nothing of one that is not there, which its shard will report."""
    try:
        stat = path.stat()
    except OSError:
        return []
    return [stat.st_size, stat.st_mtime_ns]
