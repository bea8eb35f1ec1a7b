"""Features of a split as a folder of latents (``fourm.alignment.latents``), in bounded memory.

Beside what latents have, ``places.npy`` (rows, 2) says of every row its modality's number and its
token (-1: of none), and ``features.json`` what they were made of and by. Parts of a few hundred
samples are files of their own until all are there, so that what was cut short goes on; a folder of
other features is refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from fourm.alignment.latents import (
    ABOUT,
    VECTORS,
    Latents,
    describe_latents,
    hash_keys,
    open_latents,
)
from fourm.data.shards import DamageReport, write_json_atomic
from fourm.errors import UserError
from fourm.evaluation.held_out import Column, Shards, read_keys, shared_keys, spread_keys
from fourm.features.sources import FeatureSource, Rows
from fourm.files.formats import FORMAT
from fourm.modalities import Modality
from fourm.progress import progress_bar

NOTE, PLACES = "features.json", "places.npy"
_PART = 256  # samples of a file


def columns_of(shards: Shards, inputs: tuple[Modality, ...]) -> dict[str, Column]:
    """Where each input is read. Raises UserError that names one that is not there."""
    columns = {m.name: shards.column(m) for m in inputs}
    missing = [m for m in inputs if columns[m.name] is None]
    if missing:
        names = dict.fromkeys(name for m in missing for name in (m.name, m.raw_name))
        raise UserError(f"{shards.raw}: split {shards.split} has no {' or '.join(names)}")
    return {name: column for name, column in columns.items() if column is not None}


def write_features(
    source: FeatureSource,
    data: Path,
    split: str,
    out: Path,
    num: int | None = None,
    also: tuple[Modality, ...] = (),
) -> Latents:
    """Features of up to ``num`` samples of a split, spread evenly over it (all if None), in the
    folder ``out``; opened. What is damaged is left out, as is what lacks a modality of ``also``.
    """
    report = DamageReport()
    shards = Shards.find(data, split)
    columns = columns_of(shards, source.inputs)
    keys = shared_keys(columns | columns_of(shards, also), report)
    keys = keys if num is None else spread_keys(keys, num)
    note = {"format": FORMAT, **source.made_by, "split": split, "keys": hash_keys(keys)}
    _check_note(out, note)
    if (out / ABOUT).is_file():
        return open_latents(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(out / NOTE, note)
    parts = out / "parts"
    parts.mkdir(exist_ok=True)
    starts = range(0, len(keys), _PART)
    for start in progress_bar(iterable=starts, desc=f"features: {source.name}", unit="part"):
        path = parts / f"{start:09d}.npz"
        if path.is_file():
            continue
        samples = read_keys(columns, keys[start : start + _PART], report)
        if len(samples):
            _save(path, source.rows(samples), samples.keys)
    if report.entries:
        first = report.entries[0]
        print(f"left out what is damaged, first {first.shard}: {first.key}: {first.reason}")
    made = sorted(parts.glob("*.npz"))
    if not made:
        raise UserError(f"no sample of {data}/{split} can be read")
    _join(out, made, note)
    for path in made:
        path.unlink()
    parts.rmdir()
    return open_latents(out)


def _check_note(out: Path, note: dict) -> None:
    path = out / NOTE
    if not path.is_file():
        if (out / ABOUT).is_file():
            raise UserError(f"{out} holds latents that are no features: give another --out")
        return
    before = json.loads(path.read_text())
    changed = [name for name in note if before.get(name) != note[name]]
    if changed:
        raise UserError(
            f"{out} holds features of other settings ({', '.join(changed)}): give another --out,"
            " or delete it first"
        )


def _save(path: Path, rows: Rows, keys: list[str]) -> None:
    """A part that appears whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez(
            file,
            vectors=rows.vectors,
            lengths=rows.lengths,
            places=rows.places,
            keys=np.array(keys, str),
        )
    temporary.replace(path)


def _join(out: Path, parts: list[Path], note: dict) -> None:
    """All parts as one matrix, a part in memory at a time."""
    lengths, keys, dim = np.zeros(0, np.int64), [], 0
    for path in parts:
        with np.load(path, allow_pickle=False) as part:
            lengths = np.concatenate([lengths, part["lengths"]])
            keys += [str(key) for key in part["keys"]]
            dim = part["vectors"].shape[1]
    num, start = int(lengths.sum()), 0
    vectors = open_memmap(out / VECTORS, "w+", np.float32, (num, dim))
    places = open_memmap(out / PLACES, "w+", np.int32, (num, 2))
    for path in parts:
        with np.load(path, allow_pickle=False) as part:
            rows = part["vectors"]
            vectors[start : start + len(rows)] = rows
            places[start : start + len(rows)] = part["places"]
            start += len(rows)
    vectors.flush()
    places.flush()
    one_each = bool((lengths == 1).all())
    describe_latents(
        out,
        vectors,
        keys,
        encoder=note["encoder"],
        fingerprint=hash_keys([json.dumps(note, sort_keys=True)]),
        modality="+".join(note["inputs"]),
        offsets=None if one_each else np.concatenate([[0], np.cumsum(lengths)]),
    )
