"""Patches of pictures, cut when they are asked for: those that masking left out are never made.

A patch is an element (``fourm.tokens``): number n of a column is patch n % P of picture n // P,
where a picture has P of them, row by row. Pictures lie in the column as arrays or as the files
they came as; of the latter, those are decoded of which a patch is asked for. Patches of bytes stay
bytes, a quarter of what floats take on their way to the model, which makes floats of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fourm.data.columns import Column
from fourm.data.pictures import decode_rgb
from fourm.modalities import Modality
from fourm.tokens import Elements


def patches_of(column: Column, m: Modality) -> Elements:
    """The patches of a column's pictures."""
    return EncodedPatches(column, m) if column.is_encoded else StoredPatches(column.values, m)


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

    column: Column
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
