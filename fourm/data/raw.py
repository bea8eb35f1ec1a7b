"""Raw forms of modalities: bytes in a shard <-> the arrays, strings and lists that users and
tokenizers handle.

Dense values are numpy arrays: image uint8 (H, W, 3), depth float32 (H, W), normal float32 (H, W, 3)
in [-1, 1], labels uint8 (H, W), array float32 (H, W, C). Audio is a waveform float32 (n,). Text is
a string; boxes, palette, numbers and words are lists as in JSON. Pictures are decoded with guards:
a bomb, a truncated file or a wrong shape is a ``UserError`` that says so. Numpy files are read with
pickle off.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any
from zipfile import BadZipFile

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fourm.data.geometry import fit_value
from fourm.data.sound import check_sound, read_wav, write_wav
from fourm.errors import UserError
from fourm.modalities import RawSpec

MAX_PIXELS = 100_000_000  # larger pictures are refused before they are decoded


def read_raw(data: bytes, extension: str, spec: RawSpec, native: bool = False) -> Any:
    """Decode one member of a shard. Raises UserError for anything that is not what ``spec``
    describes.

    Picture-like values that are stored larger are reduced to the spec's size; ``native`` gives them
    as they are stored.
    """
    if spec.type == "text":
        try:
            return data.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError("text is not UTF-8") from None
    if spec.type == "vectors":
        return check_vectors(_read_embedding(data) if extension == "npz" else read_npy(data), spec)
    if spec.type == "audio":
        return read_wav(data, spec.rate)
    if not spec.dense:
        try:
            value = json.loads(data)
        except ValueError:
            raise UserError("not valid JSON") from None
        wanted = dict if spec.type in ("metadata", "instances") else list
        if not isinstance(value, wanted):
            raise UserError(f"{spec.type} must be a JSON {'object' if wanted is dict else 'list'}")
        return value
    if extension == "npy":
        return _sized(read_npy(data), spec, native)
    picture = open_picture(data)
    if spec.type == "image":
        side = min(picture.size) if native else spec.size
        return _sized(np.asarray(fit_picture(to_rgb(picture), side)), spec, native)
    if spec.type == "normal":
        return _sized(np.asarray(picture.convert("RGB"), np.float32) / 127.5 - 1.0, spec, native)
    if spec.type == "depth":  # 16-bit pictures hold the range's 65,536 parts
        low, high = spec.range
        return _sized(np.asarray(picture, np.float32) / 65535.0 * (high - low) + low, spec, native)
    return _sized(np.asarray(picture), spec, native)


def _sized(array: np.ndarray, spec: RawSpec, native: bool) -> np.ndarray:
    """A checked value, stored at the spec's size or larger."""
    side = array.shape[0] if array.ndim > 1 and array.shape[0] == array.shape[1] else 0
    if side < spec.size and not (native and spec.type == "image"):
        return check_raw(array, spec)  # tells what is wrong with it
    value = check_raw(array, replace(spec, size=side))
    return value if native else fit_value(value, spec)


def write_raw(value: Any, spec: RawSpec) -> bytes:
    """Encode one value with the first extension of its type."""
    if spec.type == "text":
        return str(value).encode()
    if spec.type == "vectors":
        return write_npy(check_vectors(value, spec))
    if spec.type == "audio":
        return write_wav(check_sound(value), spec.rate)
    if not spec.dense:
        return json.dumps(value).encode()
    value = check_raw(value, spec)
    if spec.type == "normal":
        value = ((np.asarray(value) + 1.0) * 127.5).round().astype(np.uint8)
    elif spec.type in ("depth", "array"):
        return write_npy(value.astype(np.float16 if spec.type == "depth" else np.float32))
    buffer = io.BytesIO()
    Image.fromarray(value).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def check_raw(value: Any, spec: RawSpec) -> np.ndarray:
    """A dense value as the array its type promises; UserError for a wrong shape, dtype or
    class id.
    """
    array = np.asarray(value)
    size, channels = (spec.size, spec.size), spec.num_channels
    shape = size if spec.type in ("depth", "labels") else (*size, channels)
    if spec.type == "array" and array.shape == size and channels == 1:
        array = array[..., None]
    if array.shape != shape:
        raise UserError(f"{spec.type} has shape {array.shape}, expected {shape}")
    if spec.type == "image":
        if array.dtype != np.uint8:
            raise UserError(f"image must be uint8, not {array.dtype}")
        return array
    if spec.type == "labels":
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= len(spec.classes):
            raise UserError(f"labels must be class ids in 0..{len(spec.classes) - 1}")
        return array.astype(np.uint8 if len(spec.classes) <= 256 else np.uint16)
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise UserError(f"{spec.type} holds numbers that are not finite")
    return array


def check_vectors(value: Any, spec: RawSpec) -> np.ndarray:
    """A vector (C,) or a list of them (L, C) as float32 (L, C); UserError for another width or
    numbers that are not finite.
    """
    array = np.asarray(value)
    if (
        array.dtype.kind not in "fiu"
        or array.ndim not in (1, 2)
        or array.shape[-1] != spec.channels
    ):
        raise UserError(
            f"vectors have shape {array.shape} and type {array.dtype}, expected numbers (...,"
            f" {spec.channels})"
        )
    array = array.astype(np.float32).reshape(-1, spec.channels)
    if not np.isfinite(array).all():
        raise UserError("vectors hold numbers that are not finite")
    return array


def open_picture(data: bytes) -> Image.Image:
    """Decode a picture fully; UserError for bombs, truncated files and bytes that are no
    picture.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise UserError(f"picture of {picture.width} x {picture.height} pixels is too large")
        picture.load()
    except UnidentifiedImageError:
        raise UserError("no readable picture: of no known format") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"no readable picture: {error}") from None
    return picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Upright RGB: EXIF turned, transparency on white, 16-bit and CMYK converted."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        picture = Image.fromarray(
            (np.asarray(picture, np.float32) / 257.0).clip(0, 255).astype(np.uint8)
        )
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def alpha_of(picture: Image.Image) -> Image.Image | None:
    """The transparency of an upright picture (mode L), or None if it has none."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return None
    return picture.convert("RGBA").getchannel("A")


def fit_picture(picture: Image.Image, size: int) -> Image.Image:
    """The centre square of a picture at ``size`` x ``size`` pixels."""
    if picture.size == (size, size):
        return picture
    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


def read_npy(data: bytes) -> np.ndarray:
    """A numpy array from bytes, never unpickled."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        raise UserError(
            "no readable numpy array (or one of Python objects, which is never read)"
        ) from None


def _read_embedding(data: bytes) -> np.ndarray:
    """The rows of ``emb`` that ``mask_valid`` marks, from an npz file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            rows = stored["emb"]
            return rows[stored["mask_valid"].astype(bool)] if "mask_valid" in stored else rows
    except (ValueError, OSError, EOFError, KeyError, IndexError, BadZipFile):
        raise UserError(
            "no readable embedding with the array 'emb' (or one of Python objects, which is never"
            " read)"
        ) from None


def write_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
