"""Members of tars on a server, by address: pictures read where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.data.remote.folder import RemoteFile, RemoteFolder
from fourm.data.remote.listing import LISTING, ListedTar, read_listing
from fourm.data.remote.reading import RemoteReader
from fourm.errors import UserError


@dataclass(frozen=True)
class RemoteMembers:
    """Reads parts of these tars through the cache; what is fetched ahead is not waited for."""

    tars: tuple[RemoteFile, ...]
    reader: RemoteReader

    def __call__(self, tar: int, offset: int, size: int, /) -> bytes:
        """Bytes of a member. Raises UserError where the tar is not the one that was published."""
        found = self.reader.read(self.tars[tar], np.array([offset]), np.array([size]))
        return found.tobytes()

    def want(self, tar: np.ndarray, offset: np.ndarray, size: np.ndarray) -> None:
        """Fetch, in the background, what members at these addresses (n,) need."""
        for number in np.unique(tar).tolist():
            at = tar == number
            self.reader.want(self.tars[number], offset[at], size[at])


@dataclass(frozen=True)
class PublishedTars:
    """The tars of a modality on a server, and what lists their files."""

    tars: tuple[RemoteFile, ...]
    member: str  # the modality to read, where tars hold several
    stamp: list[Any]  # what a column of them is made of
    _listing: RemoteFile

    @staticmethod
    def of(folder: RemoteFolder, split: str, modality: str) -> PublishedTars | None:
        """Those of a split, None if there are none. Raises UserError where nothing lists them."""
        place, member = f"{split}/{modality}", ""
        tars = folder.tars(place)
        if not tars:  # tars that hold several modalities lie in the split's folder
            place, member = split, modality
            tars = folder.tars(place)
        if not tars:
            return None
        if f"{place}/{LISTING}" not in folder.names(place):
            raise UserError(
                f"{folder.url}/{place} has no {LISTING}, which says where files lie in its tars:"
                " run `fourm publish` of this release on the folder and upload it again"
            )
        listing = folder.file(f"{place}/{LISTING}")
        ids = [tar.id for tar in tars]
        stamp = ["published", ids, listing.id, f"{folder.url}/{place}", member]
        return PublishedTars(tars, member, stamp, listing)

    def listed(self, reader: RemoteReader) -> Iterator[ListedTar]:
        """What the listing says of each."""
        known = ((tar.url, tar.size) for tar in self.tars)
        return read_listing(reader.cache.keep_whole(self._listing), known)
