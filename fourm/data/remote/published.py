"""``published.json``: the files of a folder that is read over a network, with their checksums.

Most web servers list nothing, and none says whether a file is still the one that a run began with
(an ETag does, where there is one, for whole files). So ``fourm publish`` writes down, once, every
file's size and the CRC-32 of each of its blocks. A block is what a reader fetches and keeps: it is
the published one or it is refused, whatever the server, a proxy or a disk did to it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fourm.data.chunks import PIECES
from fourm.data.remote.listing import write_listing
from fourm.data.shards import is_key, write_json_atomic
from fourm.errors import UserError
from fourm.files.json_files import parse_mapping

PUBLISHED_FILE = "published.json"
BLOCK_BYTES = 2**20
_VERSION = 1


@dataclass(frozen=True, eq=False)
class PublishedFile:
    """Size and checksums of a file."""

    size: int
    block_bytes: int
    checksums: np.ndarray  # (blocks,) CRC-32 of each, uint32; the last block may be short

    @cached_property
    def id(self) -> str:
        """A name for the content: files of another content never share blocks in a cache."""
        text = json.dumps([_VERSION, self.size, self.block_bytes])
        return hashlib.sha256(text.encode() + self.checksums.tobytes()).hexdigest()[:24]

    def block_size(self, block: int) -> int:
        """Bytes of a block."""
        return min(self.block_bytes, self.size - block * self.block_bytes)

    def is_block(self, block: int, data: bytes | memoryview) -> bool:
        """True if these are the bytes of a block."""
        return len(data) == self.block_size(block) and zlib.crc32(data) == self.checksums[block]


def publish(folder: str | Path, block_bytes: int = BLOCK_BYTES) -> dict[str, PublishedFile]:
    """List the tars below a folder, read all files and write its ``published.json``.

    Hidden files, and those of writers that were cut short, are left out. Raises UserError where
    there is nothing to publish.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    for unfinished in folder.glob(f"*/*/{PIECES}"):
        raise UserError(f"{unfinished.parent} is not finished: run `fourm tokenize` again")
    for holder in sorted({tar.parent for tar in folder.rglob("*.tar")}):
        write_listing(holder)
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") or ".tmp" in part for part in name.parts)
        if path.is_file() and not hidden and name != Path(PUBLISHED_FILE):
            with open(path, "rb") as file:
                checksums = [zlib.crc32(block) for block in _blocks(file, block_bytes)]
                size = file.tell()
            files[name.as_posix()] = PublishedFile(
                size, block_bytes, np.array(checksums, np.uint32)
            )
    if not files:
        raise UserError(f"{folder} holds no files to publish")
    described = {
        name: {"size": file.size, "crc32": file.checksums.astype(">u4").tobytes().hex()}
        for name, file in files.items()
    }
    content = {"version": _VERSION, "block_bytes": block_bytes, "files": described}
    write_json_atomic(folder / PUBLISHED_FILE, content)
    return files


def _blocks(file: BinaryIO, block_bytes: int) -> Iterator[bytes]:
    while block := file.read(block_bytes):
        yield block


def parse(data: bytes, where: str) -> dict[str, PublishedFile]:
    """The files that a ``published.json`` names. Raises UserError, which names ``where``."""
    try:
        content = parse_mapping(data, where)
        version, block_bytes = content["version"], int(content["block_bytes"])
        files = {
            name: PublishedFile(
                int(entry["size"]),
                block_bytes,
                np.frombuffer(bytes.fromhex(entry["crc32"]), ">u4").astype(np.uint32),
            )
            for name, entry in content["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise UserError(
            f"{where} is not what `fourm publish` writes: publish the folder again"
        ) from None
    if version != _VERSION:
        raise UserError(f"{where} has version {version}; this release reads {_VERSION}")
    for name, file in files.items():
        if block_bytes < 1 or file.size < 0 or not is_key(name):
            raise UserError(f"{where}: {name!r} is no file of a folder in blocks")
        if len(file.checksums) != -(-file.size // block_bytes):
            raise UserError(f"{where}: {name} has {len(file.checksums)} checksums, not one a block")
    return files
