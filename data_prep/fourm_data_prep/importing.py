"""Own data -> raw shards of every modality: pictures of which the rest is made, or modalities that
exist already.

    fourm import SOURCE --config MODALITIES.yaml --out DIR

SOURCE is a folder of pictures, of files of each modality (``layouts``) or of webdataset tars, a
table, or hf:DATASET; with ``--columns`` tables and datasets have a column for each modality.

Pictures (jpg, png, webp, gif, bmp; any size, any depth of folders) become centre squares; captions
come from the first line of ``<name>.txt`` beside the picture or from one CSV with a column of file
names and one of captions. What cannot be read is skipped, listed with its reason in
``damage-import.json``, and stops the run if it is much. About a tenth is kept for validation,
chosen by name, or by the CSV's column ``group`` (or ``subject``), so that pictures of one subject
are never in both; ``splits`` has other ways. Each shard is a pure function of its samples, written
under a temporary name and renamed: a killed run is started again.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fourm.data.shards import Damage, write_json_atomic
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm_data_prep.columns import samples_of_table
from fourm_data_prep.engine import (
    Job,
    Progress,
    ShardResult,
    ShardStep,
    fingerprint,
    run_step,
    start_workers,
)
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.hub_datasets import DatasetRows, ImportColumnsStep, ImportDatasetStep
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.layouts import PICTURES, layout_of, paired_files
from fourm_data_prep.leftovers import remove_orphans, remove_temporaries
from fourm_data_prep.paired import ImportSamplesStep, Sample
from fourm_data_prep.picture_shards import (
    PICTURE_KINDS,
    SHARD_PICTURES,
    Item,
    describe,
    plain_key,
    write_pictures,
)
from fourm_data_prep.splits import Place, Shares, Split
from fourm_data_prep.tables import TABLE_SUFFIXES, Row, Table, read_table
from fourm_data_prep.tar_pictures import ImportTarsStep

_Divided = TypeVar("_Divided", Item, Sample)
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
    return next((line for line in lines if line.strip()), "")


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


@dataclass(frozen=True, kw_only=True)
class Taking:
    """What is taken of a source, and how it is divided."""

    columns: Mapping[str, str] = field(default_factory=dict)  # modality -> column
    require: tuple[str, ...] = ()  # modalities without which a sample is left out
    split: Split = field(default_factory=Shares)
    layout: str = ""  # folders, names or pictures; empty = as the files are named


def what_to_make(modalities: ModalitySet) -> list[Modality]:
    """What an import makes of pictures. Raises UserError for a modality that nobody makes."""
    made = [m for m in modalities if not m.source]
    for m in made:
        if m.labeller:
            open_labeller(m.labeller)
        elif not isinstance(m.raw, (Image, Text)):
            raise UserError(
                f"modality {m.name} ({m.raw.type_name}) cannot be made from a picture: name its"
                " labeller, or give its files (FOLDER/<modality>/<name>.<ext>) or its column"
                " (--columns)"
            )
    if not any(m.raw.pixels for m in made):
        raise UserError("the config has no modality with a picture's size")
    return made


def at_size(made: list[Modality], size: int) -> list[Modality]:
    """The same with the widest ``size`` pixels wide, 0 = as they are. Raises UserError for a size
    that is too small or gives parts of pixels.
    """
    widest = max((m.raw.pixels for m in made), default=0)
    if not size or not widest:
        return made
    result = []
    for m in made:
        scaled, rest = divmod(m.raw.pixels * size, widest)
        if rest or size < widest:
            raise UserError(
                f"size {size} does not fit: {m.name} has {m.raw.pixels} pixels of {widest}; take a"
                f" multiple of {widest}"
            )
        result.append(replace(m, raw=m.raw.resized(scaled)) if m.raw.pixels else m)
    return result


@dataclass(frozen=True)
class _Plan:
    """The step that imports a source, and what was damaged before there were shards."""

    step: ShardStep
    damage: tuple[Damage, ...] = ()


def import_pictures(
    source: str | Path,
    config: Path,
    out: Path,
    max_damage: float = 0.05,
    engine: EngineConfig | None = None,
    size: int = 0,
    taking: Taking | None = None,
) -> None:
    """Import a folder, a table, a folder of tars, or a dataset (``hf:NAME[:SPLIT]``).

    Raises UserError where there is nothing to import, or too much that cannot be read.
    """
    engine, taking = engine or EngineConfig(), taking or Taking()
    start_workers(engine)
    modalities = ModalitySet.load(config)
    for name in (*taking.columns, *taking.require):
        modalities.index(name)  # tells of an unknown one
    plan = _plan(str(source), modalities, out, size, taking)
    jobs, whole = plan.step.jobs(), engine.shard_range is None
    mine = jobs if engine.shard_range is None else jobs[slice(*engine.shard_range)]
    remove_temporaries(plan.step, mine, whole)
    progress = run_step(plan.step, engine, max_damage, plan.damage)
    remove_temporaries(plan.step, mine, whole)  # of workers that died meanwhile
    if whole:
        num = remove_orphans(plan.step, jobs)
        if num:
            print(f"{num} shards of an earlier import that the source has no more were removed")
    _finish(progress, out, engine)


def _plan(source: str, modalities: ModalitySet, out: Path, size: int, taking: Taking) -> _Plan:
    """How a source is imported."""
    split, folder = taking.split, Path(source)
    is_table = folder.is_file() and folder.suffix.lower() in TABLE_SUFFIXES
    if not source.startswith("hf:") and not folder.exists():
        raise UserError(f"no folder {source}")
    if taking.columns:
        absent = set(taking.require).difference(taking.columns)
        if absent:
            raise UserError(f"--require {min(absent)}: --columns names no column of it")
        made = at_size([modalities[name] for name in taking.columns], size)
        if source.startswith("hf:"):
            rows = DatasetRows(source[3:])
            step = ImportColumnsStep(made, taking.columns, rows, out, split, taking.require)
            return _Plan(step)
        if not is_table:
            raise UserError(
                f"--columns goes with a table ({', '.join(TABLE_SUFFIXES)}) or hf:DATASET, and"
                f" {source} is none"
            )
        samples, damage = samples_of_table(folder, taking.columns, made, split)
        return _of_samples(samples, damage, made, out, taking)
    stored = [m for m in modalities if not m.source]
    if folder.is_dir() and not any(folder.glob("*.tar")):
        layout = taking.layout or layout_of(folder, stored, split, PICTURE_SUFFIXES)
        if layout != PICTURES:
            stored = at_size(stored, size)
            found = paired_files(folder, stored, split, layout)
            for note in found.notes:
                print(note, file=sys.stderr)
            return _of_samples(found.samples, found.damage, stored, out, taking)
    if taking.require:
        raise UserError("--require goes with files or columns of each modality, not with pictures")
    made = at_size(what_to_make(modalities), size)
    if source.startswith("hf:"):
        return _Plan(ImportDatasetStep(made, DatasetRows(source[3:]), out, split))
    tars = sorted(folder.glob("*.tar")) if folder.is_dir() else []
    if tars:
        return _Plan(ImportTarsStep(made, tars, out, split))
    return _of_pictures(folder, made, out, split)


def _of_samples(
    samples: Sequence[Sample],
    damage: Sequence[Damage],
    made: list[Modality],
    out: Path,
    taking: Taking,
) -> _Plan:
    divided = _divided(samples, taking.split)
    lacking = [m for m in made if not any(m.name in sample.parts for sample in samples)]
    for m in lacking:
        made_by = " (fourm label makes it afterwards)" if m.labeller else ""
        print(f"{m.name}: no sample has it{made_by}", file=sys.stderr)
    present = [m for m in made if m not in lacking]
    absent = set(taking.require).difference(m.name for m in present)
    if absent:
        raise UserError(f"no sample has {min(absent)}, which --require names")
    return _Plan(ImportSamplesStep(present, divided, out, taking.require), tuple(damage))


def _of_pictures(folder: Path, made: list[Modality], out: Path, split: Split) -> _Plan:
    found = find_items(folder, split)
    items = _divided(found.items, split)
    if len(items) == 1:
        raise UserError(f"{folder} holds 1 picture: too few to train on")
    without = sum(not item.caption for item in items)
    print(f"{len(items)} pictures, {without} of them without a caption", flush=True)
    if found.num_binary_notes:
        print(
            f"{found.num_binary_notes} .txt files are no text and were left out",
            file=sys.stderr,
        )
    splits: dict[str, list[Item]] = {}
    for item in items:
        splits.setdefault(item.split, []).append(item)
    return _Plan(ImportStep(made, splits, out), found.damage)


def _divided(found: Sequence[_Divided], split: Split) -> list[_Divided]:
    """A handful of which chance puts none into a split: the last one of the largest goes there."""
    result = list(found)
    if isinstance(split, Shares) and not split.group_by and len(result) > 1:
        for i, (name, _) in enumerate(split.shares):
            if all(one.split != name for one in result) and len(result) > i + 1:
                result[-1 - i] = replace(result[-1 - i], split=name)
    return result


def _finish(progress: Progress, out: Path, engine: EngineConfig) -> None:
    """Say what was written and what was not, and note it beside the shards."""
    counts = dict(sorted(progress.counts.items()))
    left_out, oblong = counts.pop("left out", 0), counts.pop("oblong", 0)
    for split in (name for name in counts if "/" not in name):
        held = [
            f"{name.partition('/')[2]} {num:,}"
            for name, num in counts.items()
            if name.startswith(f"{split}/")
        ]
        print(f"{split}: {counts[split]:,} samples ({', '.join(held)})")
    if left_out:
        print(f"{left_out:,} samples were left out: they lack what is required, or everything")
    if oblong:
        print(
            f"warning: {oblong:,} samples have places (boxes, points) beside a picture that is no"
            " square: they are taken as places in its centre square",
            file=sys.stderr,
        )
    num = len(progress.report.entries)
    if num:
        print(
            f"{num} files or values could not be read and were skipped: see"
            f" {out / 'damage-import.json'}",
            flush=True,
        )
    if not any("/" in name for name in counts):
        raise UserError(f"nothing was imported to {out}: no sample has what is needed")
    if engine.shard_range is None:
        write_json_atomic(out / "done.json", counts)
