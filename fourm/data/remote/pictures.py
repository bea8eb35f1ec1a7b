"""Pictures that stay in tars on a server: a column of patches as that of tars on the disk, whose
bytes come through the cache.

Where they lie is downloaded once (``fourm.data.remote.listing``) and kept as the column of
addresses that local tars have, some 71 bytes a sample. Nothing is decoded ahead or stored decoded:
the cache holds files as they are published, within its bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm.data.blobs import addresses_of
from fourm.data.columns import made_once
from fourm.data.crop_settings import CropSettings
from fourm.data.patches import Damaged, FilePatches, PictureColumn, described_as
from fourm.data.remote.folder import RemoteFolder
from fourm.data.remote.members import PublishedTars, RemoteMembers
from fourm.data.remote.reading import RemoteReader
from fourm.data.shards import DamageReport
from fourm.modalities import Modality


@dataclass(frozen=True)
class RemotePictures(PictureColumn):
    """A column of pictures in tars on a server (``fourm.data.columns.Column``)."""

    members: RemoteMembers

    @property
    def num_bytes(self) -> int:
        """Bytes of all tars."""
        return sum(tar.size for tar in self.members.tars)

    def want(self, rows: np.ndarray) -> None:
        """Fetch, in the background, what these samples (n,) need."""
        (chunk,) = self.pictures.chunks
        self.members.want(*np.unique(chunk.values[rows, :3], axis=0).T)


def open_remote_pictures(
    folder: RemoteFolder,
    split: str,
    m: Modality,
    crops: CropSettings,
    cache: Path,
    reader: RemoteReader,
    report: DamageReport,
) -> RemotePictures | None:
    """The pictures of a modality in the tars of a split; None if there are none.

    Args:
        crops: how many samples each gives.
        report: see ``patches.open_pictures``.
    """
    found = PublishedTars.of(folder, split, m.raw_name)
    if found is None:
        return None

    def addresses(damage: DamageReport) -> Iterator[tuple[Path, str, np.ndarray]]:
        return addresses_of(found.listed(reader), m.raw.extensions, crops, found.member, damage)

    column = made_once(found.stamp, addresses, described_as(m, crops), cache, report)
    if found.member and not column.num_samples:
        return None
    (chunk,), members = column.chunks, RemoteMembers(found.tars, reader)
    damaged = Damaged(report.max_rate)
    patches = FilePatches(chunk.values, column.name, m, crops, members, damaged)
    return RemotePictures(column, m.num_tokens, patches, members)
