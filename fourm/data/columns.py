"""Columns: all samples of one modality, end to end, in memory-mapped chunks.

Tokens are tiny (1-5 KB a sample), so opening a tar for each would cost far more than the tokens do.
``fourm tokenize`` writes chunks (``fourm.data.chunks``); shards of another origin are decoded into
one by the first run. Pictures may stay the files they are: their bytes are the column then. The
cache is keyed by the shards' sizes and times and by how they are decoded; one process of a machine
makes an entry, the others wait (``fourm.data.once``).

``Column`` is what a source asks of a modality, wherever its samples lie: how many there are, the
hashes of their names in order (to align them, ``fourm.data.rows``), a name for messages, and
``ragged``: where the elements of the samples of a batch are, and something to read them from. A
column of another kind (remote chunks, pictures in their tars) implements these five and nothing
else; row -1 stands for a sample that lacks the modality and has length 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fourm.data.chunks import CHUNK_VERSION, KEYS, Chunk, ChunkWriter, blocks
from fourm.data.once import is_made, make_once
from fourm.data.shards import DamageReport, read_shard
from fourm.errors import UserError
from fourm.ragged import starts as starts_of
from fourm.tokens import Ragged

_DAMAGE = "damage.json"  # beside a chunk of the cache: what its shards had that cannot be read


class Column(Protocol):
    """All samples of one modality of one split, by their row."""

    @property
    def num_samples(self) -> int:
        """Number of rows."""
        ...

    @property
    def keys_id(self) -> str:
        """Text that two columns share only if they have the same keys in the same order."""
        ...

    def key_blocks(self) -> Iterator[np.ndarray]:
        """Hashes of the samples' names in order, in parts (n, 2) uint64."""
        ...

    def name(self, row: int) -> str:
        """Name of a sample, ``<shard>/<key>``."""
        ...

    def ragged(self, rows: np.ndarray) -> Ragged:
        """Elements of samples (B,), -1 where one is lacking; at least one part in any case."""
        ...


@dataclass(frozen=True)
class ChunkedColumn:
    """A column in chunks on this machine."""

    chunks: tuple[Chunk, ...]  # at least one, all of one type and shape

    def __post_init__(self) -> None:
        first = self.chunks[0]
        for chunk in self.chunks[1:]:
            kinds = [(c.index.dtype, c.index.shape, c.index.is_encoded) for c in (first, chunk)]
            if kinds[0] != kinds[1]:
                raise UserError(f"{chunk.folder} holds values of another type than {first.folder}")

    @property
    def num_samples(self) -> int:
        return int(self._ends[-1])

    def __len__(self) -> int:
        return self.num_samples

    @property
    def is_encoded(self) -> bool:
        """True if each sample is the bytes of a file."""
        return self.chunks[0].index.is_encoded

    @property
    def keys_id(self) -> str:
        stored = [(len(chunk), chunk.index.files[KEYS].sha256) for chunk in self.chunks]
        return hashlib.sha256(json.dumps(stored).encode()).hexdigest()

    def key_blocks(self) -> Iterator[np.ndarray]:
        for chunk in self.chunks:
            yield from blocks(chunk.keys)

    def name(self, row: int) -> str:
        number = int(self._number(np.asarray(row)))
        return self.chunks[number].name(int(row - self._first[number]))

    def element(self, row: int) -> np.ndarray:
        """Values of one sample (L, ...), a view."""
        held = self.ragged(np.array([row]))
        first = int(held.starts[0])
        values = held.parts[0]
        assert isinstance(values, np.ndarray)
        return values[first : first + int(held.lengths[0])]

    def ragged(self, rows: np.ndarray) -> Ragged:
        if len(self.chunks) == 1:
            held = Ragged.of_one(self.chunks[0].values, *self.chunks[0].locate(rows))
        else:
            held = self._of_chunks(rows)
        if rows.min(initial=0) < 0:
            lacks = rows < 0
            held.starts[lacks] = held.lengths[lacks] = 0
        return held

    def _of_chunks(self, rows: np.ndarray) -> Ragged:
        number = self._number(rows)
        # of a thousand chunks those that are asked for: whoever reads goes through them
        asked = np.flatnonzero(np.bincount(number))
        parts = tuple(self.chunks[i].values for i in asked)
        within = rows - self._first[number]
        if self._length is not None:
            starts, lengths = within * self._length, np.full(len(rows), self._length)
        else:
            starts, lengths = np.empty((2, len(rows)), np.int64)
            for i in asked:
                at = np.flatnonzero(number == i)
                starts[at], lengths[at] = self.chunks[i].locate(within[at])
        return Ragged(parts, np.searchsorted(asked, number), starts, lengths)

    def _number(self, rows: np.ndarray) -> np.ndarray:
        """Number of the chunk of each row, the first where there is no row."""
        return np.searchsorted(self._ends[:-1], rows, side="right")

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(chunk) for chunk in self.chunks])

    @cached_property
    def _first(self) -> np.ndarray:
        return starts_of(np.array([len(chunk) for chunk in self.chunks]))

    @cached_property
    def _length(self) -> int | None:
        """Elements of each sample where all chunks agree."""
        lengths = {chunk.index.length for chunk in self.chunks}
        return lengths.pop() if len(lengths) == 1 else None


def open_column(
    shards: list[Path],
    decode: Callable[[bytes, str], np.ndarray],
    extensions: tuple[str, ...],
    described: str,
    cache: Path,
    report: DamageReport,
    progress: Callable[[int], Any] | None = None,
    member: str = "",
    stays_encoded: Callable[[bytes, np.ndarray], bool] | None = None,
) -> ChunkedColumn:
    """The column of these shards, from the cache or made now.

    Args:
        decode: member bytes and extension -> array whose first axis counts elements (tokens, or one
            row for a picture).
        described: text that identifies what ``decode`` does; another text means another cache
            entry.
        report: receives what could not be decoded (kept in the cache and reported again on each
            opening).
        member: the modality to read, where shards hold several (``<key>.<modality>.<ext>``).
        stays_encoded: says of a file, and what ``decode`` made of it, that the file may be kept
            instead. If that holds for all files, the column has their bytes. A column that was made
            without this is used as it is.
    """

    folder = cache / _cache_name(shards, described, member)
    build = partial(_build, shards=shards, extensions=extensions, progress=progress, member=member)
    if stays_encoded is not None and not is_made(folder):
        as_files = f"{described} as files"
        files = cache / _cache_name(shards, as_files, member)
        decode_files = _as_files(decode, stays_encoded)
        with contextlib.suppress(_MustBeDecoded):
            how = {"decode": decode_files, "described": as_files, "is_encoded": True}
            make_once(files, partial(build, **how))
            return _opened(files, report)
    make_once(folder, partial(build, decode=decode, described=described))
    return _opened(folder, report)


class _MustBeDecoded(Exception):
    """A column cannot be kept as files."""


def _cache_name(shards: list[Path], described: str, member: str) -> str:
    stamp = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    place = [str(shards[0].resolve().parent), *([member] if member else [])]
    text = json.dumps([CHUNK_VERSION, described, stamp, *place])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _as_files(
    decode: Callable[[bytes, str], np.ndarray], stays_encoded: Callable[[bytes, np.ndarray], bool]
) -> Callable[[bytes, str], np.ndarray]:
    """Gives the bytes of files; of those that cannot be decoded, and for all where one must be, it
    raises.
    """

    def whole(data: bytes, extension: str) -> np.ndarray:
        # a damaged file is found now
        if not stays_encoded(data, decode(data, extension)):
            raise _MustBeDecoded
        return np.frombuffer(data, np.uint8)

    return whole


def _opened(folder: Path, report: DamageReport) -> ChunkedColumn:
    known = json.loads((folder / _DAMAGE).read_text())
    report.num_seen += known["seen"]
    for entry in known["damage"]:
        report.add(*entry)
    return ChunkedColumn((Chunk.open(folder),))


def _build(
    folder: Path,
    *,
    shards: list[Path],
    decode: Callable[[bytes, str], np.ndarray],
    extensions: tuple[str, ...],
    described: str,
    progress: Callable[[int], Any] | None,
    member: str,
    is_encoded: bool = False,
) -> None:
    """Decode shards into a chunk."""
    report = DamageReport()
    with ChunkWriter(folder, {"described": described}, is_encoded) as writer:
        for path in shards:
            for key, value in read_shard(path, decode, extensions, report, member):
                try:
                    writer.add(f"{path.stem}/{key}", value)
                except UserError as error:
                    report.add(path, key, str(error))
            if progress is not None:
                progress(writer.num_samples)
        known = {
            "seen": report.num_seen,
            "damage": [[e.shard, e.key, e.reason] for e in report.entries],
        }
        (folder / _DAMAGE).write_text(json.dumps(known))
