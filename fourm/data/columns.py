"""Columns: a modality's shards decoded once into flat, memory-mapped arrays.

Tokens are tiny (1-5 KB a sample), so opening a tar for each would cost far more than the tokens do.
The first run writes all samples of a modality into one flat file with offsets, of which a batch
reads what it needs. Pictures may stay the files they are: their bytes are the column then. The
cache is keyed by the shards' sizes and times and by how they are decoded, written under a temporary
name and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fourm.data.shards import DamageReport, read_shard

_VERSION = 1


@dataclass(frozen=True)
class Column:
    """All samples of one modality, end to end."""

    keys: np.ndarray  # (S,) "<shard>/<key>"
    offsets: np.ndarray  # (S + 1,) in elements of the first axis of values
    values: np.ndarray  # (total, ...) memory-mapped; of encoded pictures the bytes of their files
    is_encoded: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    def element(self, sample: int) -> np.ndarray:
        """Values of one sample (L, ...), a view."""
        return self.values[self.offsets[sample] : self.offsets[sample + 1]]

    def gather(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of samples (n,), padded to the longest: (n, L, ...) and lengths (n,)."""
        start = self.offsets[samples]
        lengths = self.offsets[samples + 1] - start
        longest = int(lengths.max(initial=0))
        place = np.minimum(start[:, None] + np.arange(longest), max(len(self.values) - 1, 0))
        return self.values[place], lengths


def open_column(
    shards: list[Path],
    decode: Callable[[bytes, str], np.ndarray],
    extensions: tuple[str, ...],
    described: str,
    cache: Path,
    report: DamageReport,
    progress: Callable[[int], Any] | None = None,
    member: str = "",
    stays_encoded: Callable[[bytes, np.ndarray], bool] | None = None,
) -> Column:
    """The column of these shards, from the cache or made now.

    Args:
        decode: member bytes and extension -> array whose first axis counts elements (tokens, or one
            row for a picture).
        described: text that identifies what ``decode`` does; another text means another cache
            entry.
        report: receives what could not be decoded (kept in the cache and reported again on each
            opening).
        member: the modality to read, where shards hold several (``<key>.<modality>.<ext>``).
        stays_encoded: says of a file, and what ``decode`` made of it, that the file may be kept
            instead. If that holds for all files, the column has their bytes. A column that was made
            without this is used as it is.
    """

    folder = cache / _cache_name(shards, described, member)
    make = partial(_make, shards=shards, extensions=extensions, progress=progress, member=member)
    if stays_encoded is not None and not _is_made(folder):
        as_files = f"{described} as files"
        files = cache / _cache_name(shards, as_files, member)
        with contextlib.suppress(_MustBeDecoded):
            make(files, decode=_as_files(decode, stays_encoded), described=as_files)
            return _opened(files, report, is_encoded=True)
    make(folder, decode=decode, described=described)
    return _opened(folder, report)


class _MustBeDecoded(Exception):
    """A column cannot be kept as files."""


def _cache_name(shards: list[Path], described: str, member: str) -> str:
    stamp = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in shards]
    place = [str(shards[0].resolve().parent), *([member] if member else [])]
    text = json.dumps([_VERSION, described, stamp, *place])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _as_files(
    decode: Callable[[bytes, str], np.ndarray], stays_encoded: Callable[[bytes, np.ndarray], bool]
) -> Callable[[bytes, str], np.ndarray]:
    """Gives the bytes of files; of those that cannot be decoded, and for all where one must be, it
    raises.
    """

    def whole(data: bytes, extension: str) -> np.ndarray:
        # a damaged file is found now
        if not stays_encoded(data, decode(data, extension)):
            raise _MustBeDecoded
        return np.frombuffer(data, np.uint8)

    return whole


def _is_made(folder: Path) -> bool:
    return (folder / "index.json").is_file()


def _make(folder: Path, **how: Any) -> None:
    """Build a column in ``folder`` if it is not there."""
    if _is_made(folder):
        return
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    try:
        _build(temporary, **how)
        # another process may have finished the same column first
        with contextlib.suppress(OSError):
            os.replace(temporary, folder)
    finally:  # what a full disk cuts short would keep it full
        shutil.rmtree(temporary, ignore_errors=True)


def _opened(folder: Path, report: DamageReport, is_encoded: bool = False) -> Column:
    index = json.loads((folder / "index.json").read_text())
    report.num_seen += index["seen"]
    for entry in index["damage"]:
        report.add(*entry)
    values = (
        np.memmap(
            folder / "values.bin", dtype=index["dtype"], mode="r", shape=tuple(index["shape"])
        )
        if index["shape"][0]
        else (np.zeros(index["shape"], dtype=index["dtype"]))
    )
    return Column(
        np.load(folder / "keys.npy", allow_pickle=False),
        np.load(folder / "offsets.npy", allow_pickle=False),
        values,
        is_encoded,
    )


def _build(
    temporary: Path,
    *,
    shards: list[Path],
    decode: Callable[[bytes, str], np.ndarray],
    extensions: tuple[str, ...],
    described: str,
    progress: Callable[[int], Any] | None,
    member: str,
) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    report = DamageReport()
    keys: list[str] = []
    lengths: list[int] = []
    dtype, shape = None, ()
    with open(temporary / "values.bin", "wb") as out:
        for path in shards:
            for key, value in read_shard(path, decode, extensions, report, member):
                if dtype is None:
                    dtype, shape = value.dtype, value.shape[1:]
                if value.shape[1:] != shape or value.dtype != dtype:
                    report.add(
                        path,
                        key,
                        f"{value.dtype} {value.shape} where others are {dtype} (n,"
                        f" {', '.join(map(str, shape))})",
                    )
                    continue
                keys.append(f"{path.stem}/{key}")
                lengths.append(len(value))
                out.write(value.tobytes())
            if progress is not None:
                progress(len(keys))
    np.save(temporary / "keys.npy", np.array(keys, dtype=np.str_), allow_pickle=False)
    np.save(
        temporary / "offsets.npy",
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        allow_pickle=False,
    )
    index = {
        "described": described,
        "dtype": np.dtype(dtype or np.uint16).str,
        "shape": [int(sum(lengths)), *shape],
        "seen": report.num_seen,
        "damage": [[e.shard, e.key, e.reason] for e in report.entries],
    }
    (temporary / "index.json").write_text(json.dumps(index))
