"""Columns: all samples of one modality, end to end, in memory-mapped chunks.

Tokens are tiny (1-5 KB a sample), so opening a tar for each would cost far more than the tokens do.
``fourm tokenize`` writes chunks (``fourm.data.chunks``); shards of another origin are decoded into
one by the first run, but for pictures, which stay where they are (``fourm.data.blobs``). The
cache is keyed by the shards' sizes and times and by how they are decoded; one process of a machine
makes an entry, the others wait (``fourm.data.once``).

``Column`` is what a source asks of a modality, wherever its samples lie: how many there are, the
hashes of their names in order (to align them, ``fourm.data.rows``), a name for messages, and
``ragged``: where the elements of the samples of a batch are, and something to read them from. A
column of another kind (remote chunks, pictures in their tars) implements these five and nothing
else; row -1 stands for a sample that lacks the modality and has length 0.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fourm.batches.tokens import Ragged
from fourm.data.chunks import (
    CHUNK_VERSION,
    KEYS,
    OFFSET,
    OFFSETS,
    VALUES,
    Chunk,
    ChunkWriter,
    blocks,
    chunk_folders,
)
from fourm.data.once import make_once
from fourm.data.pages import PageCheck
from fourm.data.shards import DamageReport, read_shard
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.numbers.ragged import starts as starts_of

Samples = Iterator[tuple[Path, str, np.ndarray]]  # shard, key and values (L, ...)
TOKENIZER_FILE = "tokenizer.json"  # beside the token shards of a modality: who made them
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
            kinds = [(c.index.dtype, c.index.shape) for c in (first, chunk)]
            if kinds[0] != kinds[1]:
                raise UserError(f"{chunk.folder} holds values of another type than {first.folder}")

    @property
    def num_samples(self) -> int:
        return int(self._ends[-1])

    def __len__(self) -> int:
        return self.num_samples

    @property
    def keys_id(self) -> str:
        stored = [(len(chunk), chunk.index.files[KEYS].sha256) for chunk in self.chunks]
        return hashlib.sha256(json.dumps(stored).encode()).hexdigest()

    def key_blocks(self) -> Iterator[np.ndarray]:
        for chunk in self.chunks:
            found = hashlib.sha256()
            for part in blocks(chunk.keys):
                found.update(part.data)
                yield part
            chunk.check_file(KEYS, found.hexdigest())

    def name(self, row: int) -> str:
        number = int(self._number(np.asarray(row)))
        return self.chunks[number].names[int(row - self._first[number])]

    def samples(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and values of each sample, in order."""
        for chunk in self.chunks:
            for row, (start, length) in enumerate(
                zip(*chunk.locate(np.arange(len(chunk))), strict=True)
            ):
                yield chunk.names[row], chunk.values[start : start + length]

    def element(self, row: int) -> np.ndarray:
        """Values of one sample (L, ...), a view."""
        held = self.ragged(np.array([row]))
        first = int(held.starts[0])
        values = held.parts[0]
        assert isinstance(values, np.ndarray)
        return values[first : first + int(held.lengths[0])]

    def ragged(self, rows: np.ndarray) -> Ragged:
        number, starts, lengths = self.places(rows)
        self._check_pages(rows, number, starts, lengths)
        if len(self.chunks) == 1:
            return Ragged.of_one(self.chunks[0].values, starts, lengths)
        # of a thousand chunks those that are asked for: whoever reads goes through them
        asked = np.flatnonzero(np.bincount(number))
        parts = tuple(self.chunks[i].values for i in asked)
        return Ragged(parts, np.searchsorted(asked, number), starts, lengths)

    def check(self, rows: np.ndarray) -> None:
        """Raise UserError where what holds samples (n,) is not what was written."""
        self._check_pages(rows, *self.places(rows))

    def _check_pages(
        self, rows: np.ndarray, number: np.ndarray, starts: np.ndarray, lengths: np.ndarray
    ) -> None:
        """The same of samples whose ``places`` are known."""
        self.check_offsets(rows)  # first: what they say is used below
        values, each = self._pages_of_values, self._element_bytes
        if values.num_left:
            values(number, starts * each, lengths * each)

    def check_offsets(self, rows: np.ndarray) -> None:
        """Raise UserError where what says where samples (n,) lie is not what was written."""
        offsets = self._pages_of_offsets
        if offsets.num_left:
            number = self._number(rows)
            within = np.maximum(rows - self._first[number], 0) * OFFSET.itemsize
            offsets(number, within, np.where(rows < 0, 0, 2 * OFFSET.itemsize))

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of samples (B,), -1 where one is lacking: the number of its chunk, its first element
        within that, and how many it has.
        """
        if len(self.chunks) == 1:
            number = np.zeros(len(rows), np.int64)
            starts, lengths = self.chunks[0].locate(rows)
        else:
            number = self._number(rows)
            starts, lengths = self._within(number, rows - self._first[number])
        if rows.min(initial=0) < 0:
            lacks = rows < 0
            starts[lacks] = lengths[lacks] = 0
        return number, starts, lengths

    def _within(self, number: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First elements and lengths of rows (B,) of chunks ``number`` (B,), within each."""
        if self._length is not None:
            return rows * self._length, np.full(len(rows), self._length)
        starts, lengths = np.empty((2, len(rows)), np.int64)
        for i in np.flatnonzero(np.bincount(number)):
            at = np.flatnonzero(number == i)
            starts[at], lengths[at] = self.chunks[i].locate(rows[at])
        return starts, lengths

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
    def _pages_of_values(self) -> PageCheck:
        return PageCheck([chunk.paged(VALUES) for chunk in self.chunks])

    @cached_property
    def _pages_of_offsets(self) -> PageCheck:
        return PageCheck([chunk.paged(OFFSETS) for chunk in self.chunks])

    @cached_property
    def _element_bytes(self) -> int:
        index = self.chunks[0].index
        return np.dtype(index.dtype).itemsize * prod(index.shape)

    @cached_property
    def _length(self) -> int | None:
        """Elements of each sample where all chunks agree."""
        lengths = {chunk.index.length for chunk in self.chunks}
        return lengths.pop() if len(lengths) == 1 else None


def open_chunks(root: str | Path, split: str, modality: str) -> ChunkedColumn:
    """The column in a modality's chunks. Raises UserError where there are none."""
    folders = chunk_folders(root, split, modality)
    if not folders:
        raise UserError(f"no chunks under {Path(root, split, modality)}: run `fourm tokenize`")
    return ChunkedColumn(tuple(Chunk.open(folder) for folder in folders))


def open_column(
    shards: list[Path],
    decode: Callable[[bytes, str], np.ndarray],
    extensions: tuple[str, ...],
    described: str,
    cache: Path,
    report: DamageReport,
    progress: Callable[[int], Any] | None = None,
    member: str = "",
) -> ChunkedColumn:
    """The column of these shards, decoded, from the cache or made now.

    Args:
        decode: member bytes and extension -> array whose first axis counts elements (tokens, or one
            row for a picture).
        described: text that identifies what ``decode`` does; another text means another cache
            entry.
        report: receives what could not be decoded (kept in the cache and reported again on each
            opening).
        member: the modality to read, where shards hold several (``<key>.<modality>.<ext>``).
    """

    def samples(found: DamageReport) -> Samples:
        num = 0
        for path in shards:
            for key, value in read_shard(path, decode, extensions, found, member):
                num += 1
                yield path, key, value
            if progress is not None:
                progress(num)

    return made_once(stamp_of(shards, member), samples, described, cache, report)


def stamp_of(shards: list[Path], member: str) -> list[Any]:
    """What a column of these shards is made of: it is made anew where this is another."""
    stamp = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    return [stamp, str(shards[0].resolve().parent), *([member] if member else [])]


def made_once(
    stamp: list[Any],
    samples: Callable[[DamageReport], Samples],
    described: str,
    cache: Path,
    report: DamageReport,
) -> ChunkedColumn:
    """A column, from the cache or made now.

    Args:
        stamp: what it is made of, as JSON has it.
        samples: shard, key and value (L, ...) of each sample; what it cannot read it adds to the
            report that it is given.
        described: how it is made.
    """
    text = json.dumps([CHUNK_VERSION, described, *stamp])
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:20]
    try:
        make_once(folder, partial(_build, samples=samples, described=described))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            f"columns cannot be kept in {cache} ({error.strerror}): name another folder by"
            " data.cache=FOLDER"
        ) from error
    return _opened(folder, report)


def _opened(folder: Path, report: DamageReport) -> ChunkedColumn:
    known = json.loads((folder / _DAMAGE).read_text())
    report.num_seen += known["seen"]
    for entry in known["damage"]:
        report.add(*entry)
    return ChunkedColumn((Chunk.open(folder),))


def _build(folder: Path, *, samples: Callable[[DamageReport], Samples], described: str) -> None:
    """Write samples into a chunk."""
    report = DamageReport()
    with ChunkWriter(folder, {"described": described}) as writer:
        for path, key, value in samples(report):
            try:
                writer.add(f"{path.stem}/{key}", value)
            except UserError as error:
                report.add(path, key, str(error))
        known = {
            "seen": report.num_seen,
            "damage": [[e.shard, e.key, e.reason] for e in report.entries],
        }
        (folder / _DAMAGE).write_text(json.dumps(known))


def check_ids(chunk: Chunk, m: Modality) -> None:
    """Raise UserError where a chunk holds something else than ids of a modality."""
    index = chunk.index
    if index.shape or np.dtype(index.dtype).kind not in "iu":
        raise UserError(f"{chunk.folder} holds no ids, which {m.name} needs")
    if (index.largest or 0) >= m.vocab_size:
        raise UserError(
            f"{chunk.folder}: id {index.largest} is outside the vocabulary of {m.vocab_size}"
            f" that {m.name} has"
        )
    if m.kind != "sequence" and len(chunk) and index.length != m.num_tokens:
        raise UserError(
            f"{chunk.folder} has {index.length or 'differing numbers of'} ids a sample where"
            f" {m.name} has {m.num_tokens}: tokenize the data again"
        )


def check_tokenizer(text: str, where: str, m: Modality, wanted: str | None) -> None:
    """Raise UserError where the ``tokenizer.json`` with this text, beside the tokens of a modality,
    tells of another vocabulary, or of another tokenizer than the ``wanted`` one.
    """
    made_by = json.loads(text)
    if made_by["vocab_size"] > m.vocab_size:
        raise UserError(
            f"{where} was made by a tokenizer of {made_by['vocab_size']} ids, the config"
            f" declares {m.vocab_size} for {m.name}"
        )
    if wanted is not None and made_by["fingerprint"] != wanted:
        raise UserError(
            f"{where} was made by tokenizer {made_by['fingerprint']}, the one in use is"
            f" {wanted}: tokenize the data again"
        )
