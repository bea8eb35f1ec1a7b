"""Pictures that stay where they are: files in tars, found by (tar, first byte, bytes).

Where they lie is a column like any other (``fourm.data.columns``), whose elements are addresses. It
is made once, from the headers of the tars alone (``fourm.data.tar_headers``), and is found again in
the cache while the tars have the sizes and times that it was made of. A file that gives several
samples, crops of it, has as many rows with one address.

Bytes come from ``ReadMember``, a function of an address: ``TarFiles`` reads tars of this machine
with ``pread``, which has no position to share, so that processes forked with open files do not get
into each other's way; another one may read them from elsewhere.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fourm.data.crop_settings import CropSettings
from fourm.data.crops import sample_key
from fourm.data.shards import NO_KEY, TWICE, WHOLE_SHARD, DamageReport, is_key, key_and_extension
from fourm.data.tar_headers import Member, members_of
from fourm.errors import UserError

MAX_BYTES = 1 << 28  # of a file: a larger one is no picture that could be decoded
_MAX_OPEN = 64  # tars that a process holds open


class Address(NamedTuple):
    """Where a file lies, and what it is."""

    tar: int  # number in a list of tars
    offset: int  # of its first byte
    size: int  # bytes
    kind: int  # number of its extension among those of the raw type


class ReadMember(Protocol):
    """Bytes of a file by its address."""

    def __call__(self, tar: int, offset: int, size: int, /) -> bytes:
        """Raises UserError where the bytes are not there any more."""
        ...


@dataclass(frozen=True)
class TarStamp:
    """A tar as it was when it was listed."""

    path: str
    size: int
    time: int  # of its last change, ns

    @staticmethod
    def of(path: Path) -> TarStamp:
        """What a tar is now."""
        found = path.stat()
        return TarStamp(str(path), found.st_size, found.st_mtime_ns)

    def members(self) -> Iterator[Member]:
        """Its files, off its headers."""
        return members_of(self.path)


class Tar(Protocol):
    """A tar whose files can be listed, wherever it lies."""

    @property
    def path(self) -> str:
        """Where that is."""
        ...

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    def members(self) -> Iterator[Member]:
        """Its files in order. Raises UserError where it is damaged, after those before."""
        ...


def addresses_of(
    tars: Iterable[Tar],
    extensions: tuple[str, ...],
    crops: CropSettings,
    member: str,
    report: DamageReport,
) -> Iterator[tuple[Path, str, np.ndarray]]:
    """Tar, key of a sample and its address int64 (1, 4), of all files that have one of these
    extensions; what is damaged goes to the report.
    """
    for number, tar in enumerate(tars):
        seen: set[str] = set()
        path = tar.path
        try:
            for file in tar.members():
                key, extension = key_and_extension(file.name, member)
                if extension not in extensions:
                    continue
                report.num_seen += 1
                if not is_key(key):
                    report.add(path, file.name, NO_KEY)
                    continue
                wrong = TWICE if key in seen else _wrong_with(file, tar.size)
                if wrong:
                    report.add(path, key, wrong)
                    continue
                seen.add(key)
                kind = extensions.index(extension)
                address = np.array([Address(number, file.offset, file.size, kind)], np.int64)
                for crop in range(crops.num_crops):
                    yield Path(path), sample_key(key, crop), address
        except (UserError, OSError) as error:
            report.add(path, WHOLE_SHARD, f"the shard ends early: {error}")


def _wrong_with(file: Member, end: int) -> str:
    """Why a file of a tar of ``end`` bytes is skipped, as far as its header says; empty if it is
    not.
    """
    if file.offset + file.size > end:
        return "truncated"
    return "" if 0 < file.size <= MAX_BYTES else f"a file of {file.size} bytes is no picture"


class TarFiles:
    """Reads members of tars of this machine; of these so many are held open."""

    def __init__(self, tars: Sequence[TarStamp]) -> None:
        self._tars = tuple(tars)
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._open: OrderedDict[int, Any] = OrderedDict()  # used last, at the end

    def __call__(self, tar: int, offset: int, size: int, /) -> bytes:
        """Bytes of a member. Raises UserError where a tar is not what it was when it was listed."""
        file = self._file(tar)  # a reference of this thread's own keeps it open
        data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise self._changed(tar)
        return data

    def __getstate__(self) -> dict[str, Any]:
        return {"_tars": self._tars}  # another process opens its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._tars = state["_tars"]
        self._begin()

    def _file(self, tar: int) -> Any:
        if self._process != os.getpid():  # a lock that another thread held is forked as it was
            self._begin()
        with self._lock:
            # files close with the last reference, so another thread may read on from one that goes
            file = self._open.pop(tar, None) or self._opened(tar)
            self._open[tar] = file
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            return file

    def _opened(self, tar: int) -> Any:
        listed = self._tars[tar]
        try:
            file = open(listed.path, "rb", buffering=0)
        except FileNotFoundError:
            raise self._changed(tar) from None
        found = os.fstat(file.fileno())
        if (found.st_size, found.st_mtime_ns) != (listed.size, listed.time):
            raise self._changed(tar)
        return file

    def _changed(self, tar: int) -> UserError:
        return UserError(
            f"{self._tars[tar].path} has changed since its files were listed: start the run again"
        )
