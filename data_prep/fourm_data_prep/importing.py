"""A folder of pictures with captions -> raw shards of every modality that can be made from them.

    fourm import SOURCE --config MODALITIES.yaml --out DIR

SOURCE is a folder of pictures or of webdataset tars, a table, or hf:DATASET.

Pictures (jpg, png, webp, gif, bmp; any size, any depth of folders) become centre squares; captions
come from the first line of ``<name>.txt`` beside the picture or from one CSV with a column of file
names and one of captions. Pictures that cannot be read are skipped, listed with their reason in
``damage-import.json``, and stop the run if they are many. About a tenth is kept for validation,
chosen by name, or by the CSV's column ``group`` (or ``subject``), so that pictures of one subject
are never in both. Each shard is a pure function of its pictures, written under a temporary name and
renamed: a killed run is started again.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fourm.data.shards import (
    Damage,
    DamageReport,
    member_name,
    read_shard,
    write_json_atomic,
)
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm_data_prep.engine import (
    Job,
    Progress,
    ShardResult,
    fingerprint,
    run_step,
    stamp,
    start_workers,
)
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.hub_datasets import ImportDatasetStep
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.picture_shards import (
    SHARD_PICTURES,
    Item,
    describe,
    is_validation,
    plain_key,
    write_pictures,
)
from fourm_data_prep.tables import TABLE_SUFFIXES, Row, Table, read_table

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


@dataclass(frozen=True)
class Found:
    """Pictures of a folder or table, and what there is of it that names none."""

    items: list[Item]
    damage: tuple[Damage, ...] = ()
    num_binary_notes: int = 0  # .txt files that are no text


def find_items(source: Path) -> Found:
    """All pictures under a folder with their captions, by name; or those that a table names. Raises
    UserError if there are none.
    """
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
    items, seen, num_binary = [], set(), 0
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
        items.append(Item(key, path, " ".join(caption.split()), row.group))
    return Found(items, table.damage, num_binary)


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


class ImportTarsStep:
    """The same from webdataset tars of pictures and captions (``<key>.jpg``, ``<key>.txt``), one
    shard of a split for each tar.

    ``<key>.<modality>.<ext>`` beside ``<key>.<ext>`` is another modality of that picture and left
    alone; where there is no such picture, dots belong to the name.
    """

    name = "import"

    def __init__(self, made: list[Modality], tars: list[Path], out: Path) -> None:
        self.made, self.tars, self.out = made, tars, out

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        stamps = [fingerprint(stamp(tar)) for tar in self.tars]
        return [
            Job(split, number, inputs)
            for split in ("train", "val")
            for number, inputs in enumerate(stamps)
        ]

    def run(self, job: Job) -> ShardResult:
        report, tar = DamageReport(), self.tars[job.number]
        suffixes = tuple(suffix[1:] for suffix in PICTURE_SUFFIXES)
        names = [member_name(name) for name in _member_names(tar)]
        pictures = {key for key, extension in names if extension.lower() in suffixes}

        def named(name: str) -> tuple[str, str]:
            key, extension = member_name(name)
            if "." not in extension or key in pictures:
                return key, extension
            more, _, extension = extension.rpartition(".")
            return f"{key}.{more}", extension

        captions = dict(read_shard(tar, _as_text, ("txt",), DamageReport(), named=named))
        found = (
            (Item(plain_key(key), tar, " ".join(captions.get(key, "").split())), data)
            for key, data in read_shard(tar, lambda data, _: data, suffixes, report, named=named)
            if is_validation(plain_key(key)) == (job.split == "val")
        )
        result = write_pictures(found, self.made, self.out, job)
        # a damaged tar is told once
        own = [entry for entry in report.entries if job.split == "train"]
        return replace(result, damage=(*result.damage, *own))


def _member_names(tar: Path) -> Iterable[str]:
    """Names in a tar, as far as it can be read."""
    try:
        with tarfile.open(tar, "r|*") as members:
            for info in members:
                yield info.name
    except (tarfile.TarError, EOFError, OSError):
        return


def _as_text(data: bytes, _: str) -> str:
    return "" if b"\0" in data else data.decode("utf-8-sig", errors="replace")


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


def what_to_make(modalities: ModalitySet, size: int = 0) -> list[Modality]:
    """The modalities that an import makes, their shards ``size`` pixels wide (the widest of them; 0
    = as the config says).

    Raises UserError for one that nobody makes, or a size that is too small or gives parts of
    pixels.
    """
    made = [m for m in modalities if not m.source]
    for m in made:
        if m.labeller:
            open_labeller(m.labeller)
        elif not isinstance(m.raw, (Image, Text)):
            raise UserError(
                f"modality {m.name} ({m.raw.type_name}) cannot be made from a picture: name its"
                " labeller"
            )
    widest = max((m.raw.pixels for m in made), default=0)
    if not widest:
        raise UserError("the config has no modality with a picture's size")
    if not size:
        return made
    result = []
    for m in made:
        scaled, rest = divmod(m.raw.pixels * size, widest)
        if rest or size < widest:
            raise UserError(
                f"size {size} does not fit: {m.name} has {m.raw.pixels} pixels of {widest}; take a"
                f" multiple of {widest}"
            )
        result.append(replace(m, raw=m.raw.resized(scaled)))
    return result


def import_pictures(
    source: str | Path,
    config: Path,
    out: Path,
    max_damage: float = 0.05,
    engine: EngineConfig | None = None,
    size: int = 0,
) -> None:
    """Import a folder, a table, a folder of tars, or a dataset (``hf:NAME[:SPLIT]``).

    Raises UserError where there are no pictures, or too many that cannot be read.
    """
    engine = engine or EngineConfig()
    start_workers(engine)
    made = what_to_make(ModalitySet.load(config), size)
    if str(source).startswith("hf:"):
        step = ImportDatasetStep(made, str(source)[3:], out)
        _finish(run_step(step, engine, max_damage), out, {"shards": len(step.jobs())}, engine)
        return
    folder = Path(source)
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if tars:
        _finish(
            run_step(ImportTarsStep(made, tars, out), engine, max_damage),
            out,
            {"tars": len(tars)},
            engine,
        )
        return
    found = find_items(folder)
    items = found.items
    held = [is_validation(item.group or item.key) for item in items]
    splits = {
        "train": [item for item, away in zip(items, held, strict=True) if not away],
        "val": [item for item, away in zip(items, held, strict=True) if away],
    }
    if not splits["val"]:  # a handful of pictures: the last one is kept for validation
        splits["val"] = splits["train"][-1:]
        splits["train"] = splits["train"][:-1]
    if not splits["train"]:
        raise UserError(f"{folder} holds {len(items)} picture(s): too few to train on")
    without = sum(not item.caption for item in items)
    print(f"{len(items)} pictures, {without} of them without a caption", flush=True)
    if found.num_binary_notes:
        print(
            f"{found.num_binary_notes} .txt files are no text and were left out",
            file=sys.stderr,
        )
    progress = run_step(ImportStep(made, splits, out), engine, max_damage, found.damage)
    _finish(progress, out, {split: len(part) for split, part in splits.items()}, engine)


def _finish(progress: Progress, out: Path, counts: dict[str, int], engine: EngineConfig) -> None:
    num = len(progress.report.entries)
    if num:
        print(
            f"{num} pictures could not be read and were skipped: see {out / 'damage-import.json'}",
            flush=True,
        )
    if engine.shard_range is None:
        write_json_atomic(out / "done.json", counts)
