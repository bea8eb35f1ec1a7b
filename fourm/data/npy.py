"""Numpy files in memory; never unpickled, and never larger in memory than they are as a file."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import numpy as np

from fourm.errors import UserError, shown

MAX_BYTES = 1 << 30  # of an array in a compressed archive, which a small file may announce
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npy(data: bytes) -> np.ndarray:
    """A numpy array from bytes. Raises UserError for anything else."""
    try:
        return _array(data)
    except Exception:  # a header is an expression of Python: it may be wrong in every way
        raise UserError(
            "no readable numpy array (or one of Python objects, which is never read)"
        ) from None


def read_npz(data: bytes, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an archive has. Raises UserError for anything else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = {f"{name}.npy": name for name in names}
            return {
                held[info.filename]: _array(_member(archive, info))
                for info in archive.infolist()
                if info.filename in held
            }
    except Exception:
        raise UserError(
            f"no readable archive with the arrays {', '.join(names)} (or one of Python objects,"
            " which is never read)"
        ) from None


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as stream:
        data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("more than an array may have")
    return data


def _array(data: bytes) -> np.ndarray:
    """The array in a file that has as many bytes as its header says. Raises anything."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    shape, in_columns, dtype = _READ_HEADER[version](stream)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError("objects, or a length below 0")
    values = stream.read()
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise ValueError("not the bytes that the header announces")
    array = np.frombuffer(bytearray(values), dtype)
    return array.reshape(shape, order="F" if in_columns else "C")


def as_array(value: Any, what: str) -> np.ndarray:
    """What a user passes as an array. Raises UserError where its parts differ in length."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{what} is no array of numbers: {shown(value)}") from None


def as_floats(array: np.ndarray, what: str) -> np.ndarray:
    """The same as float32. Raises UserError for what is made of no real numbers."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{what} holds {array.dtype} where numbers are expected")
    return array.astype(np.float32)


def write_npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
