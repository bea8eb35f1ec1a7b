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
from fourm.data.remote.listing import LISTING, read_listing
from fourm.data.remote.members import RemoteMembers
from fourm.data.remote.reading import RemoteReader
from fourm.data.shards import DamageReport
from fourm.errors import UserError
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
        tar, offset, size, _ = np.unique(chunk.values[rows], axis=0).T
        self.members.want(tar, offset, size)


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
    place, member = f"{split}/{m.raw_name}", ""
    tars = folder.tars(place)
    if not tars:  # tars that hold several modalities lie in the split's folder
        place, member = split, m.raw_name
        tars = folder.tars(place)
    if not tars:
        return None
    if f"{place}/{LISTING}" not in folder.names(place):
        raise UserError(
            f"{folder.url}/{place} has no {LISTING}, which says where pictures lie in its tars: run"
            " `fourm publish` of this release on the folder and upload it again"
        )
    listing = folder.file(f"{place}/{LISTING}")

    def addresses(found: DamageReport) -> Iterator[tuple[Path, str, np.ndarray]]:
        known = ((tar.url, tar.size) for tar in tars)
        listed = read_listing(reader.cache.keep_whole(listing), known)
        return addresses_of(listed, m.raw.extensions, crops, member, found)

    stamp = ["published", [tar.id for tar in tars], listing.id, f"{folder.url}/{place}", member]
    column = made_once(stamp, addresses, described_as(m, crops), cache, report)
    if member and not column.num_samples:
        return None
    (chunk,), members = column.chunks, RemoteMembers(tars, reader)
    damaged = Damaged(report.max_rate)
    patches = FilePatches(chunk.values, column.name, m, crops, members, damaged)
    return RemotePictures(column, m.num_tokens, patches, members)
