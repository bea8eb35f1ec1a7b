"""Columns whose values lie on a server: chunks as ``fourm tokenize`` writes them, published.

Of a chunk its index is read when the column is opened; offsets, and keys where columns have to be
joined by key, are downloaded once; values come by ranges through the cache. A batch's samples are
copied end to end, whole (they are small: 1-5 KB each), so that masking and reading see an array as
they do of a chunk on the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from fourm.batches.tokens import Ragged
from fourm.data.chunks import INDEX, OFFSETS, SUMS, VALUES, Chunk, ChunkIndex
from fourm.data.columns import TOKENIZER_FILE, ChunkedColumn, check_ids, check_tokenizer
from fourm.data.crop_settings import CROP_SETTINGS, NOTE, CropSettings, no_note
from fourm.data.remote.block_cache import BlockCache
from fourm.data.remote.fetching import is_remote
from fourm.data.remote.folder import RemoteFile, RemoteFolder
from fourm.data.remote.pictures import RemotePictures, open_remote_pictures
from fourm.data.remote.reading import RemoteReader
from fourm.data.remote.vectors import RemoteVectors, open_remote_vectors
from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.numbers.ragged import starts as starts_of

_log = logging.getLogger(__name__)
__all__ = ["Fetched", "RemoteColumn", "RemoteData", "is_remote"]


@dataclass(frozen=True)
class RemoteFiles:
    """The files of a remote chunk, each downloaded as it is asked for (``chunks.Folder``)."""

    folder: RemoteFolder
    name: str  # of the chunk's folder within it
    reader: RemoteReader

    def file(self, name: str) -> RemoteFile:
        """A file of the chunk, where it is."""
        return self.folder.file(f"{self.name}/{name}")

    def __str__(self) -> str:
        return f"{self.folder.url}/{self.name}"

    def __truediv__(self, name: str, /) -> Path:
        # pages of offsets have checksums of their own (``RemoteColumn.places``)
        return self.reader.cache.keep_whole(self.file(name), check=name != OFFSETS)


@dataclass(frozen=True)
class RemoteColumn:
    """A column in chunks on a server (``fourm.data.columns.Column``)."""

    chunks: ChunkedColumn  # all but their values
    values: tuple[RemoteFile, ...]  # of each chunk
    offsets: tuple[RemoteFile, ...]  # of each chunk, and the checksums of their pages
    reader: RemoteReader

    @property
    def num_samples(self) -> int:
        return self.chunks.num_samples

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        return sum(file.size for file in self.values)

    @property
    def keys_id(self) -> str:
        return self.chunks.keys_id

    def key_blocks(self) -> Iterator[np.ndarray]:
        return self.chunks.key_blocks()

    def name(self, row: int) -> str:
        return self.chunks.name(row)

    def ragged(self, rows: np.ndarray) -> Ragged:
        number, starts, lengths = self.places(rows)
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

    def places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where samples (n,) lie (``ChunkedColumn.places``), by offsets that are fetched again
        where a disk has spoilt them.
        """
        try:
            self.chunks.check_offsets(rows)
        except UserError as error:
            _log.warning("%s; it is fetched again", str(error).partition(":")[0])
            for file in self.offsets:
                self.reader.cache.mend(file)
            self.chunks.check_offsets(rows)
        return self.chunks.places(rows)

    def want(self, rows: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        number, starts, lengths = self.places(rows)
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


@runtime_checkable
class Fetched(Protocol):
    """A column whose values are fetched."""

    @property
    def num_bytes(self) -> int:
        """Bytes of all values."""
        ...

    def want(self, rows: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        ...


class RemoteData:
    """Remote folders of a run, and the cache that they share.

    Args:
        folder: the run's cache, of which this takes the folder ``remote``.
        max_bytes: most that values may take there.
    """

    def __init__(self, folder: Path, max_bytes: int = 64 * 2**30) -> None:
        self._cache, self._max_bytes = folder, max_bytes
        self._folders: dict[str, RemoteFolder] = {}

    @cached_property
    def reader(self) -> RemoteReader:
        """What reads ranges of values."""
        return RemoteReader(BlockCache(self._cache / "remote", self._max_bytes))

    def column(
        self, root: str, split: str, m: Modality, fingerprint: str | None
    ) -> RemoteColumn | None:
        """The column of a modality in the chunks below an address; None if it has none there.

        Raises UserError where its values are not of this modality, or of another tokenizer than
        the one with this fingerprint.
        """
        folder = self._folder_at(root)
        place = f"{split}/{m.name}/"
        names = [name.removeprefix(place) for name in folder.names(place)]
        if TOKENIZER_FILE in names:
            note = self.reader.cache.keep_whole(folder.file(place + TOKENIZER_FILE))
            check_tokenizer(note.read_text(), f"{folder.url}/{place}", m, fingerprint)
        chunks, values, offsets = [], [], []
        for name in names:
            if name.endswith(f".chunk/{INDEX}"):
                files = RemoteFiles(folder, place + name.removesuffix(f"/{INDEX}"), self.reader)
                index = ChunkIndex.from_json((files / INDEX).read_text(), f"{files}/{INDEX}")
                chunks.append(Chunk(files, index))
                check_ids(chunks[-1], m)
                values.append(files.file(VALUES))
                if SUMS[OFFSETS] in index.files:
                    offsets += [files.file(OFFSETS), files.file(SUMS[OFFSETS])]
                elif OFFSETS in index.files:  # of releases up to 0.9
                    self.reader.cache.keep_whole(files.file(OFFSETS))
        if not chunks:
            return None
        whole = ChunkedColumn(tuple(chunks))
        return RemoteColumn(whole, tuple(values), tuple(offsets), self.reader)

    def raw(
        self, root: str, split: str, m: Modality, crops: CropSettings, report: DamageReport
    ) -> RemotePictures | RemoteVectors | None:
        """The column of a continuous modality in the tars below an address, see
        ``open_remote_pictures`` and ``open_remote_vectors``.
        """
        open_remote = open_remote_pictures if m.patch_size else open_remote_vectors
        folder = self._folder_at(root)
        return open_remote(folder, split, m, crops, self._cache, self.reader, report)

    def crop_settings(self, root: str, split: str) -> CropSettings:
        """Those of a split's tokens below an address (``CropSettings.read``)."""
        folder, place = self._folder_at(root), f"{split}/{CROP_SETTINGS}"
        if not folder.names(f"{place}/"):
            return CropSettings()
        if f"{place}/{NOTE}" not in folder.names(place):
            raise no_note(f"{folder.url}/{place}")
        return CropSettings.of_note(self.reader.cache.keep_whole(folder.file(f"{place}/{NOTE}")))

    def _folder_at(self, root: str) -> RemoteFolder:
        if root not in self._folders:
            self._folders[root] = RemoteFolder(root)
        return self._folders[root]
