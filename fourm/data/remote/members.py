"""Members of tars on a server, by address: pictures read where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.data.remote.folder import RemoteFile
from fourm.data.remote.reading import RemoteReader


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
