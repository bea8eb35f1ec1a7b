"""Held-out samples as they are judged: raw values, and the ids that the model's own tokenizers make
of them.

Raw shards are the truth. Where a modality has a tokenizer and raw shards its ids are made here, so
that no crop and no other tokenizer stands between; a modality that has only token shards gives its
ids, and what is judged of it are its tokens. Only the members that were chosen are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fourm.batches.tokens import Ragged, SampleTokens
from fourm.codecs import CodecSet
from fourm.data.opening import decoder_of, to_vectors
from fourm.data.shards import (
    WHOLE_SHARD,
    DamageReport,
    key_and_extension,
    member_name,
    read_shard,
    shard_paths,
)
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.numbers.ragged import starts

_BATCH = 32  # values that a tokenizer takes at once


@dataclass(frozen=True)
class Column:
    """One modality's shards of a split, raw or tokens."""

    folder: str
    is_raw: bool
    shards: tuple[Path, ...]
    decode: Callable[[bytes, str], Any]
    extensions: tuple[str, ...]
    member: str = ""  # of tars that hold several modalities

    def keys(self, report: DamageReport) -> set[str]:
        """``<shard>/<key>`` of all its members, by their headers alone; of a shard that ends early
        those before.
        """
        found = set()
        for path in self.shards:
            try:
                for entry in members_of(path):
                    key, extension = key_and_extension(entry.name, self.member)
                    if extension in self.extensions:
                        found.add(f"{path.stem}/{key}")
            except UserError as error:
                report.add(path, WHOLE_SHARD, str(error))
        return found

    def read(self, keys: set[str], report: DamageReport) -> dict[str, Any]:
        """Values of some of them; what is damaged is left out and noted."""
        values = {}
        named = {key.partition("/")[0] for key in keys}
        for path in (path for path in self.shards if path.stem in named):

            def chosen(name: str, shard: str = path.stem) -> tuple[str, str]:
                key, extension = member_name(name)
                return key, extension if f"{shard}/{key}" in keys else ""

            read = read_shard(path, self.decode, self.extensions, report, self.member, chosen)
            values |= {f"{path.stem}/{key}": value for key, value in read}
        return values


@dataclass(frozen=True)
class Shards:
    """Where a split lies: a project, a folder with ``raw`` and ``tokens``, or one of raw shards."""

    raw: Path
    tokens: Path | None
    split: str

    @staticmethod
    def find(place: Path, split: str) -> Shards:
        """The shards in a folder. Raises UserError where there is no such split."""
        if not place.is_dir():
            raise UserError(f"no folder {place}: name the folder that holds raw/ and tokens/")
        inner = place / "raw", place / "tokens"
        parts = inner if any(part.is_dir() for part in inner) else (place,)
        if not any((part / split).is_dir() for part in parts):
            there = {p.name for part in parts if part.is_dir() for p in part.iterdir()}
            raise UserError(
                f"{place} has no split {split!r}; in its place are {', '.join(sorted(there)[:8])}:"
                " name another with --split"
                if there
                else f"{place} is empty: no split {split!r}"
            )
        return Shards(parts[0], parts[1] if len(parts) > 1 else None, split)

    def raw_of(self, m: Modality) -> Column | None:
        """Raw values of a modality, if there are any."""
        shards, member = self._tars(self.raw, m.raw_name)
        if not shards:
            return None
        return Column(m.raw_name, True, shards, m.raw.read, m.raw.extensions, member)

    def tokens_of(self, m: Modality) -> Column | None:
        """Ids of a modality, if there are any."""
        if m.kind == "continuous" or self.tokens is None:
            return None
        shards, member = self._tars(self.tokens, m.name)
        return Column(m.name, False, shards, decoder_of(m), ("npy",), member) if shards else None

    def column(self, m: Modality) -> Column | None:
        """What a modality is read from: raw values that it can be made of, else ids."""
        takes_raw = m.kind == "continuous" or m.tokenizer is not None
        return (self.raw_of(m) if takes_raw else None) or self.tokens_of(m)

    def _tars(self, root: Path, folder: str) -> tuple[tuple[Path, ...], str]:
        """A modality's own tars, or those of all modalities together with its name in them."""
        shards = shard_paths(root, self.split, folder)
        if shards:
            return tuple(shards), ""
        shards = shard_paths(root, self.split, "")
        first = (
            key_and_extension(entry.name, folder)[1] for p in shards for entry in members_of(p)
        )
        return (tuple(shards), folder) if any(first) else ((), "")


@dataclass(frozen=True)
class Samples:
    """Samples that have all that was asked for."""

    keys: list[str]
    columns: dict[str, Column]
    values: dict[tuple[str, bool], list[Any]]  # by folder, and if that is raw
    report: DamageReport  # what could not be read

    def __len__(self) -> int:
        return len(self.keys)

    def of(self, name: str) -> list[Any]:
        """What a modality is read from: raw values or ids."""
        column = self.columns[name]
        return self.values[column.folder, column.is_raw]

    def raw(self, name: str) -> list[Any] | None:
        """Raw values of a modality; None where only its ids are known."""
        return self.of(name) if self.columns[name].is_raw else None

    def ids(self, m: Modality, codecs: CodecSet) -> list[np.ndarray]:
        """Ids of a modality, made by its tokenizer or as they are stored."""
        made = self.of(m.name)
        if self.columns[m.name].is_raw:
            parts = [made[i : i + _BATCH] for i in range(0, len(made), _BATCH)]
            made = [ids for part in parts for ids in codecs[m.name].encode(part)]
        return [np.asarray(ids, np.int64)[: m.num_tokens] for ids in made]

    def vectors(self, m: Modality) -> list[np.ndarray]:
        """What the model projects of a continuous modality, (L, C) each."""
        return [v for value in self.of(m.name) for v in to_vectors(np.asarray(value)[None], m)]


def shared_keys(columns: dict[str, Column], report: DamageReport) -> list[str]:
    """Keys of the samples that all columns have, sorted. Raises UserError if there are none."""
    each = {name: column.keys(report) for name, column in columns.items()}
    shared = sorted(set.intersection(*each.values())) if each else []
    if not shared:
        counts = ", ".join(f"{name} {len(keys)}" for name, keys in each.items())
        raise UserError(
            f"no sample has all of these modalities ({counts or 'none'}): ask for fewer of them"
        )
    return shared


def spread_keys(keys: list[str], num: int) -> list[str]:
    """Up to ``num`` of them, spread evenly."""
    at = np.linspace(0, len(keys) - 1, min(num, len(keys))).round().astype(int)
    return [keys[i] for i in at]


def read_keys(columns: dict[str, Column], keys: list[str], report: DamageReport) -> Samples:
    """The samples of some keys, without those that cannot be read."""
    unique = {(column.folder, column.is_raw): column for column in columns.values()}
    read = {name: column.read(set(keys), report) for name, column in unique.items()}
    kept = [key for key in keys if all(key in values for values in read.values())]
    values = {name: [found[key] for key in kept] for name, found in read.items()}
    return Samples(kept, columns, values, report)


def read_samples(columns: dict[str, Column], num: int) -> Samples:
    """Up to ``num`` samples that all columns have, spread evenly over the split. Raises UserError
    if there are none.
    """
    report = DamageReport()
    samples = read_keys(columns, spread_keys(shared_keys(columns, report), num), report)
    if not len(samples):
        first = report.entries[0]
        raise UserError(f"no held-out sample can be read: {first.shard}: {first.reason}")
    return samples


def packed(
    ids: dict[str, list[np.ndarray]],
    vectors: dict[str, list[np.ndarray]],
) -> SampleTokens:
    """Ids (L,) and vectors (L, C) of each sample as tokens that can be masked."""
    content = {}
    for name, values in (ids | vectors).items():
        lengths = np.array([len(value) for value in values])
        content[name] = Ragged.of_one(np.concatenate(values), starts(lengths), lengths)
    num = len(next(iter(content.values())).lengths)
    return SampleTokens(np.arange(num), content)


def present(shards: Shards, modalities: Iterable[Modality]) -> dict[str, Column]:
    """Columns of the modalities that the data has, by name."""
    found = {m.name: shards.column(m) for m in modalities}
    return {name: column for name, column in found.items() if column is not None}
