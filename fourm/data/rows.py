"""Which row of each modality's column holds a sample: the union of the columns, joined by key.

A sample is a key and whatever modalities it has. Samples have the order of the first column; those
that it lacks follow in the order of the second, and so on, so that data in which nothing is missing
keep their order. Where all columns have equal keys in equal order, sample s is row s of each and
nothing is stored; otherwise a table (samples, modalities) of rows, -1 where one is lacking, is made
once in the cache and mapped.

The table is made in memory that does not grow with the data, by two passes over files on disk (a
radix join). Rows are numbered through all columns. First, keys are parted by their hash; a part
fits in memory, so that equal keys can be brought together by sorting: the lowest number among them
is the sample's owner. Then pairs (owner, row) are parted by owner, that is by the order that
samples are to have, and each part becomes the next lines of the table. For M columns of N samples
this writes and reads 40 M N bytes once, in a row: 0.3 TB for a billion samples of seven modalities.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.chunks import blocks, mapped
from fourm.data.columns import Column
from fourm.data.exclude import Exclusion
from fourm.data.join import key_in
from fourm.data.keys import keys_of
from fourm.data.once import make_again, make_once
from fourm.data.row_table import TABLE, RowTable, table_writer
from fourm.errors import UserError

_VERSION = 2  # 2: pages have checksums
_INDEX = "index.json"
_PART = 1 << 21  # records of a part: some 200 MB while they are sorted
_MOST_PARTS, _MOST_LINES = 1 << 12, 1 << 15  # files of parts of keys, and of lines of the table


@dataclass(frozen=True)
class Presence:
    """How many samples have which modalities."""

    modalities: tuple[str, ...]
    num_samples: int  # with at least one modality
    num_kept: int  # with all that are required
    num_complete: int  # with all modalities
    together: tuple[tuple[int, ...], ...]  # (M, M) that have both; the diagonal counts each

    def of(self, modality: str) -> int:
        """Samples that have a modality."""
        at = self.modalities.index(modality)
        return self.together[at][at]

    @property
    def strangers(self) -> list[str]:
        """Modalities of which no sample has any other: their keys are likely of another kind."""
        return [
            name
            for i, name in enumerate(self.modalities)
            if len(self.modalities) > 1 and sum(self.together[i]) == self.together[i][i]
        ]


@dataclass(frozen=True)
class Lost:
    """A sample that a column lacks because a shard could not be read to its end."""

    modality: str
    name: str  # <shard>/<key>


@dataclass(frozen=True)
class Rows:
    """Row of each sample in each column."""

    table: RowTable | None  # (S, M); None: sample s is row s everywhere
    presence: Presence
    num_unread: int = 0  # damaged samples that are in no column
    lost: tuple[Lost, ...] = ()
    num_excluded: int = 0  # samples that are left out by name
    unknown: tuple[str, ...] = ()  # of those names, the ones that no column has

    @property
    def num_samples(self) -> int:
        """Samples to draw from."""
        return self.presence.num_kept

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Rows (B, M) of samples (B,), -1 where one lacks a modality."""
        if self.table is None:
            num = len(self.presence.modalities)
            return np.broadcast_to(np.asarray(samples)[:, None], (len(samples), num))
        return self.table[samples].astype(np.int64)


@dataclass(frozen=True)
class Damaged:
    """What the columns' shards had that could not be read."""

    samples: Collection[str] = ()  # their names
    cut_short: frozenset[tuple[str, str]] = frozenset()  # (modality, shard)


def align(
    columns: Mapping[str, Column],
    require: Sequence[str],
    cache: Path,
    damaged: Damaged,
    exclude: Exclusion | None = None,
) -> Rows:
    """Join columns by key; samples without all of ``require``, and those of ``exclude``, are left
    out.

    Raises UserError where a column has a key twice.
    """
    held, exclude = list(columns.values()), exclude or Exclusion()
    equal = len({column.keys_id for column in held}) == 1
    if equal and not (damaged.samples or damaged.cut_short or exclude.names):
        return Rows(None, _complete(columns))
    stamp = [
        _VERSION,
        [(name, column.keys_id) for name, column in columns.items()],
        sorted(require),
        sorted(damaged.samples),
        sorted(damaged.cut_short),
        *([exclude.names] if exclude.names else []),
    ]
    name = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:20]
    folder = cache / f"rows-{name}"
    join = _Join(columns, require, damaged, exclude)
    again = partial(make_again, folder, join.make, _is_whole)
    make_once(folder, join.make)
    try:
        return _read(folder, again)
    except _DAMAGE:
        again()
        return _read(folder, again)


def _complete(columns: Mapping[str, Column]) -> Presence:
    """Of columns with equal keys."""
    num = next(iter(columns.values())).num_samples
    return Presence(tuple(columns), num, num, num, ((num,) * len(columns),) * len(columns))


_DAMAGE = (OSError, ValueError, KeyError, TypeError)  # of an index that is not what was written


def _read(folder: Path, again: Callable[[], None]) -> Rows:
    known = json.loads((folder / _INDEX).read_text())
    if known.pop("sha256") != _digest(known):
        raise ValueError(f"{folder / _INDEX} is damaged")
    together = tuple(map(tuple, known["presence"].pop("together")))
    names = tuple(known["presence"].pop("modalities"))
    presence = Presence(names, together=together, **known["presence"])
    table = None
    if known["dtype"] is not None and presence.num_kept:
        shape = (presence.num_kept, len(names))
        table = RowTable(folder, np.dtype(known["dtype"]), shape, again)
    lost = tuple(Lost(**e) for e in known["lost"])
    excluded = known.get("excluded", 0), tuple(known.get("unknown", ()))
    return Rows(table, presence, known["num_unread"], lost, *excluded)


def _digest(known: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _is_whole(folder: Path) -> bool:
    try:
        table = _read(folder, lambda: None).table
        if table is not None:
            table.check_whole()
    except _DAMAGE:  # UserError is one
        return False
    return True


class _Join:
    """One join of columns into a folder. Rows have one number through all columns."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        require: Sequence[str],
        damaged: Damaged,
        exclude: Exclusion,
    ) -> None:
        self._columns, self._names = list(columns.values()), tuple(columns)
        self._required = np.array([self._names.index(name) for name in require], np.int64)
        self._damaged, self._exclude = damaged, exclude
        sizes = [column.num_samples for column in self._columns]
        self._ends = np.cumsum(sizes)
        self._first = self._ends - sizes
        total = int(self._ends[-1])
        self._part = max(_PART, -(-total // _MOST_PARTS))
        self._lines_of_part = max(1, _PART // len(sizes), -(-total // _MOST_LINES))
        self._dtype = np.dtype("<i4" if max(sizes) < 2**31 else "<i8")

    def make(self, folder: Path) -> None:
        """Write the table, if one is needed, and what is known of it."""
        self._folder = folder
        self._excluded: set[bytes] = set()  # hashes that were met of those
        equal = self._equal()
        presence = equal or self._joined()
        known = {
            "dtype": None if equal else self._dtype.str,
            "presence": asdict(presence),
            "num_unread": self._num_unread(bool(equal)),
            "lost": [] if equal else [asdict(lost) for lost in self._lost(presence.num_kept)],
            "excluded": len(self._excluded),
            "unknown": self._exclude.unknown(self._excluded),
        }
        (self._folder / _INDEX).write_text(json.dumps(known | {"sha256": _digest(known)}))

    def _equal(self) -> Presence | None:
        """What columns with equal keys hold; None where they are not."""
        if self._exclude.names or len(set(self._ends - self._first)) > 1:
            return None
        others = self._columns[1:]
        if any(column.keys_id != self._columns[0].keys_id for column in others):
            streams = [_in_parts(column.key_blocks(), self._part) for column in self._columns]
            for first, *rest in zip(*streams, strict=True):
                if not all(np.array_equal(first, other) for other in rest):
                    return None
        return _complete(dict(zip(self._names, self._columns, strict=True)))

    # ---- the join ------------------------------------------------------------------------------

    def _joined(self) -> Presence:
        total = int(self._ends[-1])
        num_parts = 1 << (total // self._part).bit_length()
        by_key = _Parts(self._folder / "by_key", width=3)
        for first, column in zip(self._first, self._columns, strict=True):
            at = int(first)
            for keys in column.key_blocks():
                number = np.arange(at, at + len(keys), dtype=np.uint64)[:, None]
                by_key.add(_top_bits(keys[:, 0], num_parts), np.concatenate([keys, number], 1))
                at += len(keys)
        by_owner = _Parts(self._folder / "by_owner", width=2)
        for part in range(num_parts):
            pairs = self._owners(by_key.take(part))
            by_owner.add(pairs[:, 0] // np.uint64(self._lines_of_part), pairs)
        together, num_samples = np.zeros((len(self._names),) * 2, np.int64), 0
        num_complete = num_kept = 0
        with table_writer(self._folder) as write:
            for part in range(total // self._lines_of_part + 1):
                table = self._lines(by_owner.take(part), part * self._lines_of_part)
                has = table >= 0
                ones = has.astype(np.float32)  # whose sums are exact up to 2^24
                together += (ones.T @ ones).astype(np.int64)
                num_samples += len(table)
                num_complete += int(has.all(1).sum())
                table = table[has[:, self._required].all(1)]
                num_kept += len(table)
                write(table)
        for parts in (by_key, by_owner):
            parts.close()
        counts = tuple(map(tuple, together.tolist()))
        return Presence(self._names, num_samples, num_kept, num_complete, counts)

    def _owners(self, records: np.ndarray) -> np.ndarray:
        """Pairs (n, 2) of owner and row, from records (n, 3) of key and row."""
        wanted = self._exclude.among(records[:, :2])
        if wanted.any():
            self._excluded.update(map(np.ndarray.tobytes, records[wanted, :2]))
            records = records[~wanted]
        # mostly the first 64 bits tell all keys apart, and sorting one word is quicker
        order = np.argsort(records[:, 0], kind="stable")
        high, low, number = records[order].T
        same = high[1:] == high[:-1]
        if (low[1:] != low[:-1])[same].any():
            high, low, number = records[np.lexsort(records.T[::-1])].T
            same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
        begins = np.flatnonzero(np.concatenate([[True], ~same])[: len(number)])
        if not len(begins):
            return np.empty((0, 2), np.uint64)
        # sorting kept the order of equal keys, so the first is the lowest
        owner = np.repeat(number[begins], np.diff(np.append(begins, len(number))))
        column = np.searchsorted(self._ends, number, side="right")
        twice = np.flatnonzero(same & (column[1:] == column[:-1]))
        if len(twice):
            self._refuse(int(column[twice[0]]), number[twice[0] : twice[0] + 2])
        return np.stack([owner, number], 1)

    def _refuse(self, column: int, numbers: np.ndarray) -> None:
        rows = [int(number) - int(self._first[column]) for number in numbers]
        first, second = (self._columns[column].name(row) for row in rows)
        found = f"the sample {first} twice"
        if first != second and key_in(first) == key_in(second):
            found = f"the key of {first} again, in {second}, where keys alone are joined"
        elif first != second:  # once in 1e20 data sets of a billion samples
            found = f"two samples of one hash, {first} and {second}: rename one"
        raise UserError(f"{self._names[column]} has {found}; remove the shard that repeats it")

    def _lines(self, pairs: np.ndarray, first: int) -> np.ndarray:
        """Lines (n, M) of the table, of owners from number ``first`` on."""
        owner, number = pairs.T.astype(np.int64)
        column = np.searchsorted(self._ends, number, side="right")
        lines = np.full((self._lines_of_part, len(self._names)), -1, self._dtype)
        lines[owner - first, column] = number - self._first[column]
        return lines[(lines >= 0).any(1)]

    # ---- damage --------------------------------------------------------------------------------

    def _num_unread(self, equal: bool) -> int:
        """Damaged samples that no column has."""
        wanted = keys_of(sorted(self._damaged.samples))
        wanted = wanted[np.argsort(wanted[:, 0])]
        found: set[bytes] = set()
        for column in self._columns[: 1 if equal else None]:
            for keys in column.key_blocks() if len(wanted) else ():
                at = np.searchsorted(wanted[:-1, 0], keys[:, 0])
                alike = keys[wanted[at, 0] == keys[:, 0]]  # in the first half, so hardly any
                found.update(key.tobytes() for key in alike)
        return sum(key.tobytes() not in found for key in wanted)

    def _lost(self, num_kept: int) -> Iterator[Lost]:
        """Samples that a column lacks, of shards that it could not read to their end."""
        if not num_kept:
            return
        lines = mapped(self._folder / TABLE, self._dtype, (num_kept, len(self._names)))
        for modality, shard in sorted(self._damaged.cut_short):
            at = self._names.index(modality)
            for table in blocks(lines):
                for line in table[table[:, at] < 0]:
                    column = int(np.argmax(line >= 0))
                    name = self._columns[column].name(int(line[column]))
                    if name.startswith(f"{shard}/"):
                        yield Lost(modality, name)


class _Parts:
    """Records of ``width`` numbers of 64 bits, parted into files that are read one by one."""

    def __init__(self, folder: Path, width: int) -> None:
        self._folder, self._width = folder, width
        folder.mkdir()

    def add(self, part: np.ndarray, records: np.ndarray) -> None:
        """Append records (n, width) to the part (n,) of each."""
        order = np.argsort(part.astype(np.uint16), kind="stable")  # of 16 bits: by counting
        records, part = records[order], part[order]
        begins = np.flatnonzero(np.diff(part, prepend=part[:1] + 1))
        for begin, end in zip(begins, np.append(begins[1:], len(part))[: len(begins)], strict=True):
            with open(self._folder / str(part[begin]), "ab") as out:
                out.write(np.ascontiguousarray(records[begin:end]).data)

    def take(self, part: int) -> np.ndarray:
        """The records of a part, which are then no more."""
        path = self._folder / str(part)
        if not path.exists():
            return np.empty((0, self._width), np.uint64)
        records = np.fromfile(path, np.uint64).reshape(-1, self._width)
        path.unlink()
        return records

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder)


def _top_bits(high: np.ndarray, num_parts: int) -> np.ndarray:
    """Number of the part of each key, of a power of two of them."""
    bits = num_parts.bit_length() - 1
    return high >> np.uint64(64 - bits) if bits else np.zeros(len(high), np.uint64)


def _in_parts(stream: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The rows of a stream of arrays in parts of ``size``, the last of which may be smaller."""
    held = np.empty((0, 2), np.uint64)
    for array in stream:
        held = np.concatenate([held, array])
        while len(held) >= size:
            yield held[:size]
            held = held[size:]
    yield held
