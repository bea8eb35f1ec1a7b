"""Compare chunks of columns with their checksums, all bytes of all files.

Training compares pages as it first reads them (``fourm.data.pages``); this is for whoever wants to
know before, after a copy or a crash, and for chunks of releases that wrote no checksums of pages:
an index has those of whole files in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fourm.data.chunks import INDEX, VALUES, Chunk
from fourm.errors import UserError


@dataclass(frozen=True)
class Verified:
    """What was compared, and how many chunks differ."""

    num_chunks: int
    num_damaged: int
    num_bytes: int  # of chunks that are whole
    seconds: float


def verify(folder: Path, threads: int, report: Callable[[UserError], None]) -> Verified:
    """Compare all chunks at any depth below a folder, in the order of their names.

    Args:
        report: receives what is wrong with a chunk; it names the file.

    Raises UserError where there is no chunk.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    began = time.monotonic()
    chunks = sorted({path.parent for name in (INDEX, VALUES) for path in folder.rglob(name)})
    chunks = [chunk for chunk in chunks if chunk.suffix == ".chunk" or (chunk / VALUES).exists()]
    if not chunks:
        raise UserError(f"{folder} holds no chunks of columns: `fourm tokenize` writes them")
    num_damaged = num_bytes = 0
    with ThreadPoolExecutor(threads) as pool:  # hashing needs no interpreter
        for found in pool.map(_bytes_of, chunks):
            if isinstance(found, UserError):
                num_damaged += 1
                report(found)
            else:
                num_bytes += found
    return Verified(len(chunks), num_damaged, num_bytes, time.monotonic() - began)


def _bytes_of(folder: Path) -> int | UserError:
    """Bytes of a chunk that is what was written, or what is wrong with it."""
    try:
        chunk = Chunk.open(folder)
        chunk.verify()
    except UserError as error:
        return error
    return sum(stored.bytes for stored in chunk.index.files.values())
