"""A chunk of a column: samples of one modality end to end, as a folder of flat files to be mapped.

    index.json    the numbers below, who made it, bytes and SHA-256 of each file
    values.bin    elements of all samples: (num_elements, *shape)
    offsets.bin   int64 (num_samples + 1,): first element of each; absent where all have one length
    keys.bin      uint64 (num_samples, 2): hashes of the samples' names (``fourm.data.keys``)
    names.bin     the names, UTF-8, end to end, and
    name_offsets.bin  int64 (num_samples + 1,): where each begins; read for messages alone
    values.crc32, offsets.crc32  uint32: checksums of pages (``fourm.data.pages``); chunks of
                      releases before have none

Everything is little-endian and at a place that the index tells, so a reader elsewhere plans its
range reads from the index alone. Opening costs one small file and a look at the sizes of the
others; pages are compared with their checksums as they are read, whole files where somebody asks
(``Chunk.verify``). Writing holds one sample in memory. Chunks end in any order of magnitude, a
million samples say.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np

from fourm.data.keys import key_of
from fourm.data.pages import AGAIN, PAGE, SUM, PagedFile, PageSums
from fourm.errors import UserError
from fourm.files.json_files import parse_mapping

CHUNK_VERSION = 2  # 1: columns of releases up to 0.6, without an index of this kind
INDEX = "index.json"
VALUES, OFFSETS, KEYS = "values.bin", "offsets.bin", "keys.bin"
NAMES, NAME_OFFSETS = "names.bin", "name_offsets.bin"
SUMS = {VALUES: "values.crc32", OFFSETS: "offsets.crc32"}  # of what is read at random
PIECES = "pieces"  # folder beside chunks, there while what is to be joined into them is made
OFFSET = np.dtype("<i8")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """What the index says of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ChunkIndex:
    """All that there is to know about a chunk before its files are read."""

    dtype: str
    shape: tuple[int, ...]  # of one element
    num_samples: int
    num_elements: int
    length: int | None  # elements of each sample; None where they differ
    largest: int | None  # of whole numbers; None where values are none, or nothing is there
    made_by: dict[str, Any]  # what the values depend on: {"described": ...}, {"fingerprint": ...}
    files: dict[str, StoredFile]
    version: int = CHUNK_VERSION

    @staticmethod
    def from_json(text: str | bytes, where: str | Path) -> ChunkIndex:
        """Parse an index. Raises UserError where it is damaged or newer than this release."""
        try:
            data = parse_mapping(text, where)
            if data["version"] > CHUNK_VERSION:
                raise UserError(
                    f"{where} has version {data['version']}, this release reads up to"
                    f" {CHUNK_VERSION}: pip install --upgrade fourm"
                )
            shape = tuple(data["shape"])
            if np.dtype(data["dtype"]).hasobject or not all(type(n) is int for n in shape):
                raise TypeError
            length = data["length"]
            numbers = (data["num_samples"], data["num_elements"], 0 if length is None else length)
            if any(type(n) is not int or not 0 <= n < _MOST for n in numbers):
                raise TypeError
            files = {name: StoredFile(**entry) for name, entry in data["files"].items()}
            return ChunkIndex(**data | {"shape": shape, "files": files})
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{where} is damaged: delete its folder and make it again") from None

    def to_json(self) -> str:
        """The index as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


class Folder(Protocol):
    """Where the files of a chunk are: a path, or what brings them here as they are asked for."""

    def __truediv__(self, name: str, /) -> Path:
        """A file of it, on this machine."""
        ...


@dataclass(frozen=True)
class Names:
    """Names of samples, ``<shard>/<key>``, end to end."""

    text: np.ndarray  # (bytes,) uint8
    offsets: np.ndarray  # (num_samples + 1,)

    def __getitem__(self, row: int) -> str:
        return self.text[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()


@dataclass(frozen=True)
class Chunk:
    """A chunk, its files mapped when they are first read."""

    folder: Folder
    index: ChunkIndex

    @staticmethod
    def open(folder: Path) -> Chunk:
        """The chunk in a folder. Raises UserError where a file is missing or not of its size."""
        path = folder / INDEX
        try:
            index = ChunkIndex.from_json(path.read_bytes(), path)
        except FileNotFoundError:
            raise UserError(f"{folder} is no chunk of a column: it has no {INDEX}") from None
        for name, stored in index.files.items():
            try:
                size = (folder / name).stat().st_size
            except FileNotFoundError:
                raise UserError(f"{folder / name} is missing: {AGAIN}") from None
            if size != stored.bytes:
                raise UserError(
                    f"{folder / name} has {size} bytes where the index says {stored.bytes}: {AGAIN}"
                )
        return Chunk(folder, index)

    def __len__(self) -> int:
        return self.index.num_samples

    @cached_property
    def values(self) -> np.ndarray:
        """(num_elements, *shape), mapped."""
        shape = (self.index.num_elements, *self.index.shape)
        return self._mapped(VALUES, np.dtype(self.index.dtype), shape)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(num_samples + 1,), mapped; only where lengths differ."""
        return self._mapped(OFFSETS, OFFSET, (len(self) + 1,))

    @property
    def keys(self) -> np.ndarray:
        """(num_samples, 2) uint64, mapped."""
        return self._mapped(KEYS, np.dtype("<u8"), (len(self), 2), in_order=True)

    def paged(self, name: str) -> PagedFile:
        """Values or offsets with the checksums of their pages; without, in chunks of before."""
        sums = SUMS[name]
        if sums not in self.index.files:
            nothing = partial(np.empty, 0, SUM)
            return PagedFile(Path(name), 0, nothing, nothing)
        num = -(-self.index.files[name].bytes // PAGE)
        content = partial(getattr, self, {VALUES: "values", OFFSETS: "offsets"}[name])
        return PagedFile(self.folder / name, num, content, partial(self._mapped, sums, SUM, (num,)))

    @cached_property
    def names(self) -> Names:
        """Names of the samples, mapped."""
        if NAMES not in self.index.files:
            raise UserError(f"{self.folder / INDEX} is damaged: {AGAIN}")
        num_bytes = self.index.files[NAMES].bytes
        return Names(
            self._mapped(NAMES, np.dtype("u1"), (num_bytes,)),
            self._mapped(NAME_OFFSETS, OFFSET, (len(self) + 1,)),
        )

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First element and number of elements of samples (n,)."""
        if self.index.length is not None:
            return rows * self.index.length, np.full(len(rows), self.index.length)
        starts = self.offsets[rows]
        return starts, self.offsets[rows + 1] - starts

    def verify(self) -> None:
        """Compare all files with their checksums. Raises UserError for the first that differs."""
        for name in self.index.files:
            with open(self.folder / name, "rb") as stream:
                self.check_file(name, hashlib.file_digest(stream, "sha256").hexdigest())

    def check_file(self, name: str, sha256: str) -> None:
        """Raise UserError where a file that has this checksum is not what was written."""
        if sha256 != self.index.files[name].sha256:
            raise UserError(f"{self.folder / name} is damaged (its checksum differs): {AGAIN}")

    def _mapped(
        self, name: str, dtype: np.dtype, shape: tuple[int, ...], in_order: bool = False
    ) -> np.ndarray:
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise UserError(f"{self.folder / INDEX} is damaged: {AGAIN}")
        if 0 in shape:  # of which there is no map
            empty = np.zeros(shape, dtype)
            empty.flags.writeable = False  # compiled code tells the two kinds apart
            return empty
        try:
            return mapped(self.folder / name, dtype, shape, in_order)
        except (ValueError, TypeError):
            raise UserError(
                f"{self.folder / name} holds something else than its {INDEX} says: {AGAIN}"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder / name} cannot be mapped ({error.strerror}); with many chunks,"
                " `ulimit -n` must allow two open files for each (four of sequences)"
            ) from None


_MOST = 2**48  # of samples or elements: no number of a damaged index overflows where it is used


def chunk_folders(root: str | Path, split: str, modality: str) -> list[Path]:
    """The chunks of one modality, in order: ``<root>/<split>/<modality>/00000.chunk``."""
    return sorted(Path(root, split, modality).glob("*.chunk"))


def mapped(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], in_order: bool = False
) -> np.ndarray:
    """A file's bytes as a plain array, read where it is asked for."""
    with open(path, "rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    if not in_order:
        # samples are asked for at random: the system would read 128 KB around each page of 4
        memory.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(memory, dtype).reshape(shape)


class _File:
    """A file that is written from its beginning to its end, with its checksum."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest, self.num_bytes = stream, hashlib.sha256(), 0
        self.sums: PageSums | None = None  # of its pages

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self._digest.update(data)
        if self.sums is not None:
            self.sums.add(data)
        self.num_bytes += len(data)

    @property
    def stored(self) -> StoredFile:
        return StoredFile(self.num_bytes, self._digest.hexdigest())


class ChunkWriter:
    """Writes a chunk sample by sample: ``with ChunkWriter(folder, made_by=...) as writer``.

    The index comes last, when the block ends without an error: a folder without one is none. The
    bytes are a function of the samples and their order.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any], dtype: str = "<u2") -> None:
        self._folder, self._made_by = folder, made_by
        self._dtype, self._shape = np.dtype(dtype), ()  # of a chunk without samples
        self._lengths: tuple[int, int] | None = None  # shortest and longest
        self._largest: int | None = None
        self.num_samples = self.num_elements = 0
        self._open = ExitStack()
        names = (VALUES, OFFSETS, KEYS, NAMES, NAME_OFFSETS)
        self._files = {
            name: _File(self._open.enter_context(open(folder / name, "wb")))
            for name in (*names, *SUMS.values())
        }
        for name, sums in SUMS.items():
            self._files[name].sums = PageSums(self._files[sums].write)
        for name in (OFFSETS, NAME_OFFSETS):
            self._files[name].write(_number(0))

    def add(self, name: str, value: np.ndarray) -> None:
        """Write one sample (L, *shape). Raises UserError where it is of another kind than those
        before.
        """
        self._check_kind(value)
        encoded, length = name.encode(), len(value)
        files = self._files
        files[VALUES].write(value.tobytes())
        files[KEYS].write(key_of(encoded))
        files[NAMES].write(encoded)
        files[NAME_OFFSETS].write(_number(files[NAMES].num_bytes))
        self.num_samples += 1
        self.num_elements += length
        files[OFFSETS].write(_number(self.num_elements))
        self._note(value, np.array([length]))

    def extend(self, chunk: Chunk, first: int, last: int) -> None:
        """Copy samples ``first`` to ``last`` - 1 of a chunk of the same kind."""
        if first == last:
            return
        starts, lengths = chunk.locate(np.arange(first, last))
        values = chunk.values[starts[0] : starts[-1] + lengths[-1]]
        self._check_kind(values)
        files, names = self._files, chunk.names
        begin, end = names.offsets[first], names.offsets[last]
        name_ends = names.offsets[first + 1 : last + 1] - begin + files[NAMES].num_bytes
        files[NAME_OFFSETS].write(name_ends.astype(OFFSET).tobytes())
        files[NAMES].write(names.text[begin:end].tobytes())
        files[KEYS].write(chunk.keys[first:last].tobytes())
        files[OFFSETS].write((self.num_elements + np.cumsum(lengths)).astype(OFFSET).tobytes())
        self._note(values[:0], lengths)
        for block in blocks(values, max(1, _BLOCK // max(values[:1].nbytes, 1))):
            files[VALUES].write(block.tobytes())
            self._note(block, lengths)
        self.num_samples += last - first
        self.num_elements += len(values)

    def _check_kind(self, value: np.ndarray) -> None:
        if not self.num_samples:
            self._dtype, self._shape = value.dtype, value.shape[1:]
        if value.shape[1:] != self._shape or value.dtype != self._dtype:
            others = ", ".join(map(str, self._shape))
            raise UserError(
                f"{value.dtype} {value.shape} where others are {self._dtype} (n, {others})"
            )

    def _note(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Take values (n, *shape) and lengths of samples into what the index says of all."""
        found = int(lengths.min()), int(lengths.max())
        shortest, longest = self._lengths or found
        self._lengths = min(shortest, found[0]), max(longest, found[1])
        if values.dtype.kind in "iu" and values.size:
            self._largest = max(int(values.max()), self._largest or 0)

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        with self._open:
            for file in self._files.values():
                if file.sums is not None:
                    file.sums.end()
        if error is None:
            self._write_index()

    def _write_index(self) -> None:
        length = None
        if self._lengths is not None and self._lengths[0] == self._lengths[1]:
            length = self._lengths[0]
            for name in (OFFSETS, SUMS[OFFSETS]):
                (self._folder / name).unlink()
                del self._files[name]
        index = ChunkIndex(
            dtype=self._dtype.str,
            shape=tuple(self._shape),
            num_samples=self.num_samples,
            num_elements=self.num_elements,
            length=length,
            largest=self._largest,
            made_by=self._made_by,
            files={name: file.stored for name, file in self._files.items()},
        )
        (self._folder / INDEX).write_text(index.to_json())


def _number(value: int) -> bytes:
    return value.to_bytes(OFFSET.itemsize, "little")


def blocks(array: np.ndarray, size: int = _BLOCK) -> Iterator[np.ndarray]:
    """An array in parts of ``size`` rows, so that of a mapped one no more is in memory."""
    for start in range(0, len(array), size):
        yield array[start : start + size]
