"""Own data -> raw shards of every modality: pictures of which the rest is made, or modalities that
exist already.

    fourm import SOURCE --config MODALITIES.yaml --out DIR

SOURCE is a folder of pictures, of files of each modality (``layouts``) or of webdataset tars, a
table, or hf:DATASET; with ``--columns`` tables and datasets have a column for each modality. Or it
is a YAML file of large images that tiles are cut from (``fourm_data_prep.rasters``).

What cannot be read is skipped, listed with its reason in ``damage-import.json``, and stops the run
if it is much. About a tenth is kept for validation,
chosen by name, or by the CSV's column ``group`` (or ``subject``), so that pictures of one subject
are never in both; ``splits`` has other ways. Each shard is a pure function of its samples, written
under a temporary name and renamed: a killed run is started again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from fourm.data.raw_sets import load_raw
from fourm.data.shards import Damage, write_json_atomic
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm_data_prep.columns import samples_of_table
from fourm_data_prep.engine import Progress, run_step
from fourm_data_prep.engine_local import start_workers
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.folder_pictures import PICTURE_SUFFIXES, ImportStep, find_items
from fourm_data_prep.hub_datasets import DatasetRows, ImportColumnsStep, ImportDatasetStep
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.layouts import PICTURES, layout_of, paired_files
from fourm_data_prep.leftovers import remove_orphans, remove_temporaries
from fourm_data_prep.paired import ImportSamplesStep, Sample
from fourm_data_prep.picture_shards import Item
from fourm_data_prep.rasters.importing import import_rasters
from fourm_data_prep.rasters.settings import is_raster_file
from fourm_data_prep.shard_steps import ShardStep
from fourm_data_prep.splits import Shares, Split
from fourm_data_prep.tables import TABLE_SUFFIXES
from fourm_data_prep.tar_pictures import ImportTarsStep

_Divided = TypeVar("_Divided", Item, Sample)


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
    if is_raster_file(Path(source)):
        if taking != Taking() or size:
            raise UserError(f"{source} says itself how its rasters are cut and divided: no options")
        import_rasters(Path(source), config, out, max_damage, engine)
        return
    start_workers(engine)
    modalities = load_raw(config)
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
    named = {one.split for one in result}
    for i, (name, _) in enumerate(split.shares if isinstance(split, Shares) else ()):
        if name in named:
            continue
        if isinstance(split, Shares) and split.group_by:  # a group must not be divided
            print(f"warning: no group falls into split {name}: give a larger share, or more groups")
        elif len(result) > i + 1:
            result[-1 - i] = replace(result[-1 - i], split=name)
    return result


def _finish(progress: Progress, out: Path, engine: EngineConfig) -> None:
    """Say what was written and what was not, and note it beside the shards."""
    counts = dict(sorted(progress.counts.items()))
    left_out, oblong = counts.pop("left out", 0), counts.pop("oblong", 0)
    uneven = counts.pop("uneven", 0)
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
    if uneven:
        print(
            f"warning: in {uneven:,} samples pictures have different shapes (width by height):"
            " their centre squares do not show the same",
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
