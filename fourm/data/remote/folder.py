"""A published folder on a server, and its files."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fourm.data.remote import fetching
from fourm.data.remote.published import PUBLISHED_FILE, PublishedFile, parse
from fourm.errors import UserError


@dataclass(frozen=True, eq=False)
class RemoteFile:
    """A file on a server, known by its blocks."""

    url: str
    published: PublishedFile

    @property
    def id(self) -> str:
        """A name for its content."""
        return self.published.id

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.published.size

    @property
    def block_bytes(self) -> int:
        """Bytes of a block; the last one may be short."""
        return self.published.block_bytes

    @property
    def num_blocks(self) -> int:
        """How many blocks it has."""
        return len(self.published.checksums)

    def block_size(self, block: int) -> int:
        """Bytes of one block."""
        return self.published.block_size(block)

    def is_block(self, block: int, data: bytes) -> bool:
        """True if these are the bytes of a block."""
        return self.published.is_block(block, data)

    def fetch(self, first: int, last: int) -> list[bytes]:
        """Blocks ``first`` to ``last``, this one included, in one request.

        Raises UserError where they are not those that were published: twice, for a wire may err.
        """
        each, stop = self.block_bytes, min((last + 1) * self.block_bytes, self.size)
        wrong = first
        for attempt in range(2):
            if attempt:
                time.sleep(fetching.PAUSE)
            data = fetching.fetch(self.url, first * each, stop)
            blocks = [data[at : at + each] for at in range(0, len(data), each)]
            bad = [n for n, b in enumerate(blocks, first) if not self.is_block(n, b)]
            if not bad:
                return blocks
            wrong = bad[0]
        raise UserError(
            f"{self.url} is not the file that was published (bytes from {wrong * each} on differ):"
            " it was changed or damaged; run `fourm publish` on the folder, upload it and start"
            " again"
        )


class RemoteFolder:
    """What a server has below an address, as its ``published.json`` says.

    Raises UserError where there is none, and where the server cannot send parts of files.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        index = f"{self.url}/{PUBLISHED_FILE}"
        try:
            data = fetching.fetch(index)
        except UserError as error:
            if "(404)" not in str(error):
                raise
            raise UserError(
                f"{index} is not there: run `fourm publish FOLDER` on the folder and upload it"
                " with its published.json"
            ) from None
        self._files = parse(data, index)
        fetching.fetch(index, 0, 1)  # a server that ignores ranges is found before a large file

    def names(self, beginning: str = "") -> list[str]:
        """Paths of the files whose path begins so, sorted."""
        return sorted(name for name in self._files if name.startswith(beginning))

    def tars(self, place: str) -> tuple[RemoteFile, ...]:
        """The tars that lie in a folder, in order."""
        names = (name.removeprefix(f"{place}/") for name in self.names(f"{place}/"))
        tars = [name for name in names if "/" not in name and name.endswith(".tar")]
        return tuple(self.file(f"{place}/{name}") for name in tars)

    def file(self, name: str) -> RemoteFile:
        """The file at a path."""
        if name not in self._files:
            raise UserError(f"{self.url}/{PUBLISHED_FILE} lists no {name}")
        return RemoteFile(f"{self.url}/{name}", self._files[name])
