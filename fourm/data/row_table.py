"""The table of rows on disk: mapped, each page compared with its checksum when it is first read.

A bit that has turned over in it would give samples the modalities of others, without a word. What
is damaged is made again where it is met, by the first process of a machine that meets it: the table
follows from the columns.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.chunks import mapped
from fourm.data.pages import PAGE, SUM, PageCheck, PagedFile, PageSums
from fourm.errors import UserError

_log = logging.getLogger(__name__)
TABLE, SUMS = "rows.bin", "rows.sums"


@contextlib.contextmanager
def table_writer(folder: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """What takes a table part by part, and writes it with the checksums of its pages."""
    with open(folder / TABLE, "wb") as values, open(folder / SUMS, "wb") as checksums:
        sums = PageSums(checksums.write)

        def write(lines: np.ndarray) -> None:
            data = lines.tobytes()
            values.write(data)
            sums.add(data)

        yield write
        sums.end()


class RowTable:
    """Lines of a table (S, M) in a folder.

    A process that is handed one (a loader's worker) maps the files itself.

    Args:
        again: makes the folder anew if it is damaged still.

    Raises ValueError where a file has not the size that the shape says.
    """

    def __init__(
        self, folder: Path, dtype: np.dtype, shape: tuple[int, int], again: Callable[[], None]
    ) -> None:
        self._folder, self._dtype, self._shape, self._again = folder, dtype, shape, again
        self._open()

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, samples: np.ndarray) -> np.ndarray:
        """Lines (B, M) of samples (B,).

        Raises UserError where the table is damaged, and again when it was made anew.
        """
        try:
            self._check(samples)
        except UserError as error:
            _log.warning("%s; it is made again", str(error).partition(":")[0])
            try:
                self._again()
            except OSError:  # somebody else's folder
                raise error from None
            self._open()
            self._check(samples)
        return self._values[samples]

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_values", "_pages")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def check_whole(self) -> None:
        """Compare all pages with their checksums. Raises UserError for the first that differs."""
        self._check(np.arange(len(self)))

    def _open(self) -> None:
        num_pages = -(-self._shape[0] * self._shape[1] * self._dtype.itemsize // PAGE)
        self._values = mapped(self._folder / TABLE, self._dtype, self._shape)
        sums = mapped(self._folder / SUMS, SUM, (num_pages,))
        values = self._values
        self._pages = PageCheck(
            [PagedFile(self._folder / TABLE, num_pages, lambda: values, lambda: sums)]
        )

    def _check(self, samples: np.ndarray) -> None:
        width = self._shape[1] * self._dtype.itemsize
        start = np.asarray(samples, np.int64) * width
        self._pages(np.zeros(len(start), np.int64), start, np.full(len(start), width))
