"""One modality of one sample as it lies in somebody's data: a file, the bytes of one, or a value.

Its raw type reads it, so that what goes into shards is what training can read. Files that fit are
stored as they are, byte for byte; picture-like ones of more pixels become the centre square at the
modality's size.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fourm.data.npy import read_npy, write_npy
from fourm.data.pictures import open_header, open_picture, turn_of
from fourm.errors import UserError
from fourm.raw import Dense, Raw
from fourm.raw.image import Image

_OTHER_PICTURES = ("gif", "bmp")  # that an import reads and shards do not hold
_FIRST_ON_ITS_SIDE = 5  # of the ways in which EXIF says that a picture is turned
_BINS = 1 << 16  # of a spelling that is thrown away: no value is beyond them
_MAGIC = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
}


class Part(Protocol):
    """One modality of one sample, before it is read."""

    @property
    def where(self) -> str:
        """What a user calls it."""
        ...

    def state(self) -> Any:
        """What tells it from another version of it, as JSON."""
        ...

    def read(self, raw: Raw, /) -> tuple[bytes, str]:
        """Bytes and extension, in small letters, as the raw type reads them. Raises UserError or
        OSError.
        """
        ...


@dataclass(frozen=True)
class File:
    """A file on disk, by its name in the folder of the source or elsewhere."""

    folder: str
    where: str

    def state(self) -> list[Any]:
        try:
            stat = self._path.stat()
        except OSError:  # its shard will report it
            return [self.where]
        return [self.where, stat.st_size, stat.st_mtime_ns]

    def read(self, raw: Raw, /) -> tuple[bytes, str]:
        try:
            return self._path.read_bytes(), extension_of(self.where)
        except OSError as error:
            raise UserError(error.strerror or str(error)) from None

    @property
    def _path(self) -> Path:
        return Path(self.folder, self.where)


@dataclass(frozen=True)
class Encoded:
    """Bytes of a file that lie in a table or data set."""

    data: bytes
    where: str

    def state(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def read(self, raw: Raw, /) -> tuple[bytes, str]:
        return self.data, _kind_of(self.data) or raw.extensions[0]


@dataclass(frozen=True)
class Value:
    """A value itself: a number, words, a list of boxes, a text, an array as lists."""

    value: Any
    where: str

    def state(self) -> str:
        return hashlib.sha256(json.dumps(self.value, default=str).encode()).hexdigest()

    def read(self, raw: Raw, /) -> tuple[bytes, str]:
        extension = raw.extensions[0]
        if extension == "txt":
            return " ".join(str(self.value).split()).encode(), extension
        if extension == "json":
            return json.dumps(_as_json(self.value, raw)).encode(), extension
        value = _from_json(self.value) if isinstance(self.value, str) else self.value
        if isinstance(value, str):
            files = ", ".join(extensions_of(raw))
            raise UserError(f"{value!r} is neither {raw.type_name} as JSON nor a file ({files})")
        array = np.asarray(value)
        if "npy" in raw.extensions:
            return write_npy(array), "npy"
        return raw.write(raw.accept(array)), extension


def extensions_of(raw: Raw) -> tuple[str, ...]:
    """Extensions of files that an import reads as this type."""
    return (*raw.extensions, *(_OTHER_PICTURES if isinstance(raw, Image) else ()))


def extension_of(path: str | Path) -> str:
    """The extension of a name, in small letters and without its dot."""
    return os.path.splitext(path)[1][1:].lower()


def as_stored(raw: Raw, data: bytes, extension: str) -> tuple[str, bytes]:
    """Extension and bytes of a file as it goes into a shard of this type.

    Raises UserError for one that the type does not read.
    """
    if extension not in extensions_of(raw):
        raise UserError(
            f"raw type {raw.type_name} reads {', '.join(extensions_of(raw))}, not"
            f" {extension or 'a file without extension'}"
        )
    larger = False
    if isinstance(raw, Image):  # which cuts its squares itself
        larger = min(open_header(data).size) > raw.pixels
        value = raw.read(data, extension, native=not larger)
    elif isinstance(raw, Dense):
        data, extension = squared(data, extension)
        value = raw.read(data, extension, native=True)
        larger = value.shape[0] > raw.pixels
        value = raw.fit(value)
    else:
        value = raw.read(data, extension)
    if extension == "json":  # whatever is JSON was read; spelling it tells what is wrong with it
        _with_a_range(raw).to_text(value, _BINS)
    if extension in raw.extensions and not larger:
        return extension, data
    return raw.extensions[0], raw.write(value)


def aspect_of(data: bytes, extension: str) -> float:
    """Width by height of a picture, turned as its EXIF says, or of an array (H, W[, C])."""
    if extension == "npy":
        height, width = read_npy(data).shape[:2]
        return width / height
    picture = open_header(data)
    aspect = picture.width / picture.height
    return 1 / aspect if turn_of(picture) >= _FIRST_ON_ITS_SIDE else aspect


def squared(data: bytes, extension: str) -> tuple[bytes, str]:
    """The centre square of a picture or an array (H, W[, C]); itself if it is one."""
    if extension == "npy":
        array = read_npy(data)
        if array.ndim < 2 or array.shape[0] == array.shape[1]:
            return data, extension
        top, left, side = _centre(*array.shape[:2])
        return write_npy(array[top : top + side, left : left + side]), extension
    picture = open_picture(data)
    if picture.width == picture.height:
        return data, extension
    top, left, side = _centre(picture.height, picture.width)
    buffer = io.BytesIO()
    picture.crop((left, top, left + side, top + side)).save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _centre(height: int, width: int) -> tuple[int, int, int]:
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _kind_of(data: bytes) -> str:
    """Extension of the kind of file that begins so; empty for no known kind."""
    if data[:4] == b"RIFF":
        return {b"WEBP": "webp", b"WAVE": "wav"}.get(data[8:12], "")
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")


def _as_json(value: Any, raw: Raw) -> Any:
    """A cell as the type takes it: JSON, one number or name as the list of it, or what is spelled
    as for a model, words between commas.

    Raises UserError that says what is wrong with the first of these.
    """
    parsed = _from_json(value) if isinstance(value, str) else value
    if isinstance(parsed, (list, dict)):
        return parsed
    ranged = _with_a_range(raw)
    spelled = ranged.from_text(str(value), _BINS) and raw.from_text(str(value), _BINS)
    try:
        ranged.to_text([parsed], _BINS)
    except UserError:
        if not spelled:
            raise
        return spelled
    return spelled if isinstance(parsed, str) and spelled else [parsed]


def _with_a_range(raw: Raw) -> Raw:
    """The type itself, or with some range where its own is still to be measured: what spelling
    finds wrong with a value does not hang on it.
    """
    return replace(raw, range=(0.0, 1.0)) if raw.is_open else raw  # type: ignore[call-arg]


def _from_json(text: str) -> Any:
    """What a text is as JSON; itself if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text
