"""Columns whose values lie on a server: chunks as ``fourm tokenize`` writes them, published.

Of a chunk its index is read when the column is opened; offsets, and keys where columns have to be
joined by key, are downloaded once; values come by ranges through the cache. A batch's samples are
copied end to end, whole (they are small: 1-5 KB each), so that masking and reading see an array as
they do of a chunk on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from fourm.data.chunks import INDEX, VALUES, Chunk, ChunkIndex
from fourm.data.columns import ChunkedColumn
from fourm.data.remote.folder import RemoteFile, RemoteFolder
from fourm.data.remote.reading import RemoteReader
from fourm.ragged import starts as starts_of
from fourm.tokens import Ragged


@dataclass(frozen=True)
class RemoteFiles:
    """The files of a remote chunk, each downloaded when it is first asked for."""

    folder: RemoteFolder
    name: str  # of the chunk's folder within it
    reader: RemoteReader

    def file(self, name: str) -> RemoteFile:
        """A file of the chunk, where it is."""
        return self.folder.file(f"{self.name}/{name}")

    def __call__(self, name: str) -> Path:
        return self.reader.cache.keep_whole(self.file(name))


@dataclass(frozen=True)
class RemoteColumn:
    """A column in chunks on a server (``fourm.data.columns.Column``)."""

    chunks: ChunkedColumn  # all but their values
    values: tuple[RemoteFile, ...]  # of each chunk
    reader: RemoteReader

    @property
    def num_samples(self) -> int:
        return self.chunks.num_samples

    @property
    def keys_id(self) -> str:
        return self.chunks.keys_id

    def key_blocks(self) -> Iterator[np.ndarray]:
        return self.chunks.key_blocks()

    def name(self, row: int) -> str:
        return self.chunks.name(row)

    def ragged(self, rows: np.ndarray) -> Ragged:
        number, starts, lengths = self.chunks.places(rows)
        index, parts, order = self.chunks.chunks[0].index, [], []
        for i in np.unique(number).tolist():
            at = np.flatnonzero(number == i)
            parts.append(self._bytes(i, starts[at], lengths[at]))
            order.append(at)
        at, here = np.concatenate(order), np.empty(len(rows), np.int64)
        here[at] = starts_of(lengths[at])
        values = np.concatenate(parts).view(index.dtype).reshape(-1, *index.shape)
        values.flags.writeable = False  # as those of a chunk on the disk: one type to compile for
        return Ragged.of_one(values, here, lengths)

    def want(self, rows: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        number, starts, lengths = self.chunks.places(rows)
        for i in np.unique(number).tolist():
            at, each = number == i, self._element_bytes
            self.reader.want(self.values[i], starts[at] * each, lengths[at] * each)

    def _bytes(self, chunk: int, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        each = self._element_bytes
        return self.reader.read(self.values[chunk], starts * each, lengths * each)

    @property
    def _element_bytes(self) -> int:
        index = self.chunks.chunks[0].index
        return np.dtype(index.dtype).itemsize * prod(index.shape)


def open_remote_column(
    folder: RemoteFolder, place: str, reader: RemoteReader
) -> RemoteColumn | None:
    """The column of the chunks in a folder such as ``train/caption``; None if it has none."""
    chunks, values = [], []
    for name in folder.names(f"{place}/"):
        if name.endswith(f"/{INDEX}"):
            files = RemoteFiles(folder, name.removesuffix(f"/{INDEX}"), reader)
            text = files(INDEX).read_text()
            chunks.append(Chunk(files, ChunkIndex.from_json(text, f"{folder.url}/{name}")))
            values.append(files.file(VALUES))
    return RemoteColumn(ChunkedColumn(tuple(chunks)), tuple(values), reader) if chunks else None
