"""Checksums of pages: a bit that has turned over in a mapped file is seen when its page is read.

Beside a file of a chunk lies one of CRC-32, a number for each 4,096 bytes of it. A page is what the
disk is read by anyhow, so a check reads nothing more; each process checks a page the first time
that a sample of it is asked for, and keeps a bit for each page that it has seen. Nothing is read
ahead and nothing waits for a whole file, whatever its size.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fourm.errors import UserError
from fourm.numbers.ragged import rows_of_blocks

PAGE = 4096
SUM = np.dtype("<u4")
AGAIN = "delete the folder and make it again"


class PageSums:
    """The checksums of a file that is written from its beginning to its end."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write, self._rest = write, bytearray()

    def add(self, data: bytes | memoryview) -> None:
        """The next bytes of the file."""
        self._rest += data
        whole = len(self._rest) - len(self._rest) % PAGE
        for start in range(0, whole, PAGE):
            self._write(_sum(self._rest[start : start + PAGE]))
        del self._rest[:whole]

    def end(self) -> None:
        """The file has ended: so does its last page."""
        if self._rest:
            self._write(_sum(self._rest))


def _sum(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(SUM.itemsize, "little")


@dataclass(frozen=True)
class PagedFile:
    """A file of pages, read when one of them is checked."""

    path: Path
    num_pages: int  # 0: it has no checksums, and is taken as it is
    read: Callable[[], np.ndarray]  # its content, of any type
    read_sums: Callable[[], np.ndarray]  # (num_pages,) uint32

    @cached_property
    def _bytes(self) -> np.ndarray:
        return self.read().reshape(-1).view(np.uint8)

    @cached_property
    def _sums(self) -> np.ndarray:
        return self.read_sums()

    def check(self, page: int) -> None:
        """Raise UserError where a page is not what was written."""
        start = page * PAGE
        data = self._bytes[start : start + PAGE]
        if zlib.crc32(data.data) != self._sums[page]:
            raise UserError(
                f"{self.path} is damaged between bytes {start:,} and {start + len(data):,} (its"
                f" checksum differs): {AGAIN}"
            )


class PageCheck:
    """Compares pages of files with their checksums, each once a process."""

    def __init__(self, files: Sequence[PagedFile]) -> None:
        self._files = files
        counts = np.array([file.num_pages for file in files])
        self._ends = np.cumsum(counts)
        self._first = self._ends - counts
        self._checked = counts > 0
        self.num_left = int(counts.sum())  # pages that nobody has asked for yet
        self._seen = np.zeros(-(-self.num_left // 8), np.uint8)  # a bit for each page

    def __call__(self, number: np.ndarray, start: np.ndarray, size: np.ndarray) -> None:
        """Check what ranges of bytes need that has not been seen yet.

        Args:
            number: the file of each range (n,).
            start, size: its first byte and number of bytes (n,).

        Raises UserError for the first page that is damaged.
        """
        if not self.num_left:
            return
        low, last = start // PAGE, (start + size - 1) // PAGE
        count = np.where(self._checked[number] & (size > 0), last - low + 1, 0)
        pages = rows_of_blocks(low + self._first[number], count)
        bits = np.left_shift(1, pages & 7).astype(np.uint8)
        new = (self._seen[pages >> 3] & bits) == 0
        if not new.any():
            return
        for page in np.unique(pages[new]).tolist():
            i = int(np.searchsorted(self._ends, page, side="right"))
            self._files[i].check(page - int(self._first[i]))
            self._seen[page >> 3] |= 1 << (page & 7)
            self.num_left -= 1
