"""Blocks of remote files on the local disk: bounded, shared by all processes of a node.

A block is a file of its own, ``blocks/<content id>/<number>``, written under another name and
renamed, so it is whole or not there; it may be removed while another process reads it, who then
still has it. Nothing is kept open, so what is removed is free.

* Blocks are written and removed under one lock (``flock``, which a killed process loses). The
  lock's file holds the number of bytes that blocks take at most: raised before one is written,
  lowered after one is removed, so it errs on the safe side wherever a process is killed; all blocks
  are counted anew when it reaches the bound. So the bound holds at every moment.
* What is asked for in every batch (offsets, listings) is kept whole beside the blocks.
* Which were used longest ago is read off their times, which reading sets.
* Neighbours are fetched in one request of up to ``REQUEST_BYTES``, under a lock for that stretch of
  the file: who comes second finds the blocks there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fourm.data.remote.folder import RemoteFile
from fourm.errors import UserError

REQUEST_BYTES = 8 * 2**20
_NUM_LOCKS = 256  # for stretches of files: more only means less waiting
_KEPT = 0.95  # share of the bound that stays when room is made, so that it is made rarely


class BlockCache:
    """A folder of blocks, of at most ``max_bytes``."""

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self._blocks, self._locks = self.folder / "blocks", self.folder / "locks"
        self._blocks.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        with self._taken() as taken:
            taken.set(self._make_room(max_bytes))
        self._seen: set[str] = set()  # blocks whose checksum this process knows to be right

    def path(self, file: RemoteFile, block: int) -> Path:
        """Where a block lies if it is here."""
        return self._blocks / file.id / str(block)

    def lacks(self, file: RemoteFile, blocks: np.ndarray) -> list[int]:
        """Those of some blocks that are not here now."""
        folder = f"{self._blocks}/{file.id}"
        return [b for b in blocks.tolist() if not os.path.exists(f"{folder}/{b}")]

    def read(self, file: RemoteFile, block: int, pieces: Iterable[tuple[int, memoryview]]) -> bool:
        """Copy pieces of a block, (first byte, room for it); False if it is not here, or not whole
        any more.
        """
        path = f"{self._blocks}/{file.id}/{block}"
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            if path not in self._seen:  # a power cut may have left other bytes than were written
                if not file.is_block(block, os.pread(descriptor, file.block_bytes + 1, 0)):
                    return False
                self._seen.add(path)
            os.utime(descriptor)
            return all(os.preadv(descriptor, [into], at) == len(into) for at, into in pieces)
        finally:
            os.close(descriptor)

    def fetch(self, file: RemoteFile, blocks: list[int]) -> dict[int, bytes]:
        """Fetch blocks of one stretch (see ``stretch``) that are not here; returns all of them."""
        found: dict[int, bytes] = {}
        with self._locked(f"{file.id} {self.stretch(file, blocks[0])}"):
            for block in blocks:
                room = bytearray(file.block_size(block))
                if self.read(file, block, [(0, memoryview(room))]):
                    found[block] = bytes(room)
            missing = np.array([b for b in blocks if b not in found], np.int64)
            for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1):
                if len(run):
                    fetched = file.fetch(int(run[0]), int(run[-1]))
                    for block, data in zip(run.tolist(), fetched, strict=True):
                        self._write(file, block, data)
                        found[block] = data
        return found

    def stretch(self, file: RemoteFile, block: int) -> int:
        """Number of the part of a file that one request may span."""
        return block // max(1, REQUEST_BYTES // file.block_bytes)

    def keep_whole(self, file: RemoteFile, check: bool = True) -> Path:
        """A file as a whole, downloaded once for all processes; not counted in the bound. What is
        here is compared with what was published, once by each process, unless ``check`` says that
        its reader does so: then ``mend`` is to be called for what differs.
        """
        path = self._whole(file)
        with self._locked(f"{file.id} whole"):
            if not path.is_file() or path.stat().st_size != file.size:
                path.parent.mkdir(exist_ok=True)
                temporary = path.with_suffix(".tmp")  # the lock's owner is the only writer
                each = max(1, REQUEST_BYTES // file.block_bytes)
                with open(temporary, "wb") as out:
                    for first in range(0, file.num_blocks, each):
                        last = min(first + each, file.num_blocks) - 1
                        out.writelines(file.fetch(first, last))
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(temporary, path)
            elif check and str(path) not in self._seen:
                _mend(file, path)
            if check:
                self._seen.add(str(path))
        return path

    def mend(self, file: RemoteFile) -> None:
        """Fetch again what differs from what was published, of a file that is here as a whole, if
        it is. It is written in its place, so that all processes that have mapped it see it.
        """
        path = self._whole(file)
        with self._locked(f"{file.id} whole"):
            if path.is_file():
                _mend(file, path)

    def _whole(self, file: RemoteFile) -> Path:
        return self.folder / "files" / file.id

    def _write(self, file: RemoteFile, block: int, data: bytes) -> None:
        if len(data) > self.max_bytes:
            raise UserError(
                f"data.cache_bytes is {self.max_bytes}, less than one block of {len(data)} bytes"
            )
        path = self.path(file, block)
        with self._taken() as taken:
            if taken.bytes + len(data) > self.max_bytes:
                taken.set(self._make_room(min(self.max_bytes * _KEPT, self.max_bytes - len(data))))
            taken.set(taken.bytes + len(data))
            path.parent.mkdir(exist_ok=True)
            temporary = self._blocks / "being_written"  # what a killed process left is overwritten
            temporary.write_bytes(data)
            os.replace(temporary, path)
        self._seen.add(str(path))

    def _make_room(self, most: float) -> int:
        """Remove what was used longest ago until blocks take at most so many bytes; returns how
        many they take. To be called under the lock.
        """
        (self._blocks / "being_written").unlink(missing_ok=True)
        held = []
        for folder in os.scandir(self._blocks):
            for entry in os.scandir(folder):
                about = entry.stat()
                held.append((about.st_mtime_ns, about.st_size, entry.path))
        total = sum(size for _, size, _ in held)
        for _, size, path in sorted(held):
            if total <= most:
                break
            os.unlink(path)
            self._seen.discard(path)
            total -= size
        return total

    @contextlib.contextmanager
    def _taken(self) -> Iterator[_Taken]:
        with _flock(self.folder / "bytes") as descriptor:
            yield _Taken(descriptor)

    def _locked(self, name: str) -> contextlib.AbstractContextManager[int]:
        return _flock(self._locks / str(zlib.crc32(name.encode()) % _NUM_LOCKS))


def _mend(file: RemoteFile, path: Path) -> None:
    with open(path, "rb") as stream:
        blocks = enumerate(iter(lambda: stream.read(file.block_bytes), b""))
        bad = [number for number, data in blocks if not file.is_block(number, data)]
    if not bad:
        return
    with open(path, "r+b") as stream:
        for number in bad:
            (data,) = file.fetch(number, number)
            os.pwrite(stream.fileno(), data, number * file.block_bytes)
        os.fsync(stream.fileno())


class _Taken:
    """The number in the lock's file: bytes that blocks take at most."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.bytes = int(os.pread(descriptor, 20, 0) or 0)

    def set(self, number: int) -> None:
        """Write another number."""
        self.bytes = number
        os.pwrite(self._descriptor, b"%20d" % number, 0)


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[int]:
    """An open file that no other thread or process has locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        # told, not only closed: a process forked meanwhile has the same open file
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
