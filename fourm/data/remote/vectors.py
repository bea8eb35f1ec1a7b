"""Vectors that stay in tars on a server (T5's of a caption, a network's features): a column whose
files come through the cache, each decoded when it is asked for.

Masking needs to know how many vectors a sample has before anything is read. ``fourm publish`` has
looked at each file and listed that, so a reader knows it as it knows where the file lies; nothing
is decoded ahead or stored decoded, and the cache keeps its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm.batches.tokens import Ragged
from fourm.data.blobs import addresses_of
from fourm.data.columns import ChunkedColumn, made_once
from fourm.data.crop_settings import CropSettings
from fourm.data.crops import Crop
from fourm.data.patches import Damaged, FileElements
from fourm.data.remote.folder import RemoteFolder
from fourm.data.remote.listing import ListedTar
from fourm.data.remote.members import PublishedTars, RemoteMembers
from fourm.data.remote.reading import RemoteReader
from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw.vectors import Vectors

_LENGTH = 4  # place of a file's number of vectors, behind its address


@dataclass(frozen=True)
class FileVectors(FileElements):
    """Vectors of files."""

    @property
    def dtype(self) -> np.dtype:
        assert isinstance(self.modality.raw, Vectors)
        return np.dtype(self.modality.raw.dtype)

    def decoded(self, data: bytes, extension: str, crop: Crop | None) -> np.ndarray:
        return self.modality.raw.read(data, extension)  # crops leave vectors alone

    def chosen(self, value: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return value[numbers]


@dataclass(frozen=True)
class RemoteVectors:
    """A column of vectors in tars on a server (``fourm.data.columns.Column``)."""

    files: ChunkedColumn  # a row says where a file lies and how many vectors it has
    most: int  # vectors of a sample that are used
    vectors: FileVectors
    members: RemoteMembers

    @property
    def num_samples(self) -> int:
        return self.files.num_samples

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(tar.size for tar in self.members.tars)

    @property
    def keys_id(self) -> str:
        return self.files.keys_id

    def key_blocks(self) -> Iterator[np.ndarray]:
        return self.files.key_blocks()

    def name(self, row: int) -> str:
        return self.files.name(row)

    def ragged(self, rows: np.ndarray) -> Ragged:
        self.files.check(rows)
        has = rows >= 0
        lengths = np.minimum(self.vectors.addresses[rows, _LENGTH], self.most)
        starts = np.where(has, rows * self.most, 0)
        return Ragged.of_one(self.vectors, starts, np.where(has, lengths, 0))

    def want(self, rows: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        self.members.want(*np.unique(self.vectors.addresses[rows, :3], axis=0).T)


def open_remote_vectors(
    folder: RemoteFolder,
    split: str,
    m: Modality,
    crops: CropSettings,
    cache: Path,
    reader: RemoteReader,
    report: DamageReport,
) -> RemoteVectors | None:
    """The vectors of a modality in the tars of a split; None if there are none.

    Args:
        crops: how many samples each file gives.
        report: see ``patches.open_pictures``.

    Raises UserError for other raw types, and where the listing does not count vectors.
    """
    if not isinstance(m.raw, Vectors):
        raise UserError(
            f"{folder.url}: vectors and pictures (patch_size) are read over a network, values of"
            f" type {m.raw.type_name} are not: keep the raw shards of {m.name} on this machine"
        )
    found = PublishedTars.of(folder, split, m.raw_name)
    if found is None:
        return None
    counts: dict[int, int] = {}  # first byte of each file of the tar in hand -> its vectors

    def counted() -> Iterator[ListedTar]:
        for tar in found.listed(reader):
            if tar.files and not tar.lengths:
                raise UserError(
                    f"{tar.path} has no vectors, or its listing does not count them: run `fourm"
                    " publish` of this release on the folder and upload it again"
                )
            counts.clear()
            counts.update((file[1], n) for file, n in zip(tar.files, tar.lengths, strict=True))
            yield tar

    def addresses(damage: DamageReport) -> Iterator[tuple[Path, str, np.ndarray]]:
        tars = counted()
        for path, key, address in addresses_of(tars, m.raw.extensions, crops, found.member, damage):
            length = counts[int(address[0, 1])]
            if length < 0:
                damage.add(path, key, "no readable vectors")
            else:
                yield path, key, np.append(address, [[length]], axis=1)

    described = f"addresses and lengths of {m.raw.extensions} {crops}"
    column = made_once(found.stamp, addresses, described, cache, report)
    if found.member and not column.num_samples:
        return None
    (chunk,), members = column.chunks, RemoteMembers(found.tars, reader)
    damaged = Damaged(report.max_rate)
    vectors = FileVectors(chunk.values, column.name, m, crops, members, damaged)
    return RemoteVectors(column, m.num_tokens, vectors, members)
