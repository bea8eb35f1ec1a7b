"""Patches of pictures, cut when they are asked for: those that masking left out are never made.

A patch is an element (``fourm.tokens``): number n of a column is patch n % P of picture n // P,
where a picture has P of them, row by row. Pictures lie in the column as arrays or as the files
they came as; of the latter, those are decoded of which a patch is asked for. Patches of bytes stay
bytes, a quarter of what floats take on their way to the model, which makes floats of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fourm.data.columns import ChunkedColumn
from fourm.data.pictures import decode_rgb
from fourm.modalities import Modality
from fourm.tokens import Elements, Ragged


@dataclass(frozen=True)
class PictureColumn:
    """A column of pictures as one of their patches (``fourm.data.columns.Column``)."""

    pictures: ChunkedColumn
    modality: Modality

    @property
    def num_samples(self) -> int:
        return self.pictures.num_samples

    @property
    def keys_id(self) -> str:
        return self.pictures.keys_id

    def key_blocks(self) -> Iterator[np.ndarray]:
        return self.pictures.key_blocks()

    def name(self, row: int) -> str:
        return self.pictures.name(row)

    def ragged(self, rows: np.ndarray) -> Ragged:
        has = rows >= 0
        num = self.modality.num_tokens
        starts, lengths = np.where(has, rows * num, 0), np.where(has, num, 0)
        return Ragged.of_one(self.patches, starts, lengths)

    @cached_property
    def patches(self) -> Elements:
        """The patches of all pictures."""
        if self.pictures.is_encoded:
            return EncodedPatches(self.pictures, self.modality)
        (chunk,) = self.pictures.chunks
        return StoredPatches(chunk.values, self.modality)


@dataclass(frozen=True)
class StoredPatches:
    """Patches of pictures that lie in the column pixel for pixel."""

    pictures: np.ndarray  # (S, H, W[, C])
    modality: Modality

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        """Patches (n,) as vectors (n, p p C)."""
        m, pictures = self.modality, self.pictures
        side, num_columns = m.patch_size, m.raw.pixels // m.patch_size
        picture, patch = np.divmod(numbers, m.num_tokens)
        row, column = np.divmod(patch, num_columns)
        # a row of a patch as one item, so that its pixels are copied in one piece
        lines = pictures.reshape(len(pictures), num_columns, side, num_columns, -1)
        items = lines.view(np.dtype((np.void, lines[0, 0, 0, 0].nbytes)))[..., 0]
        patches = items[picture, row, :, column].view(pictures.dtype)
        if m.raw.byte_scale is None:
            patches = patches.reshape(len(numbers), side, side, *pictures.shape[3:])
            patches = m.raw.to_floats(patches)
        return patches.reshape(len(numbers), m.width)


@dataclass(frozen=True)
class EncodedPatches:
    """Patches of pictures that lie in the column as files."""

    column: ChunkedColumn
    modality: Modality

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        """Patches (n,) as vectors (n, p p C); each run of one picture's is decoded once."""
        picture, patch = np.divmod(numbers, self.modality.num_tokens)
        first = np.flatnonzero(np.diff(picture, prepend=-1))
        vectors = np.empty((len(numbers), self.modality.width), np.uint8)
        for start, end in zip(first, np.append(first[1:], len(numbers)), strict=True):
            pixels = decode_rgb(self.column.element(picture[start]).tobytes())
            vectors[start:end] = StoredPatches(pixels[None], self.modality)[patch[start:end]]
        return vectors
