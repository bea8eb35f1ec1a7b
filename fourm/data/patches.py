"""Patches of pictures, cut when they are asked for: those that masking left out are never made.

A patch is an element (``fourm.batches.tokens``): number n of a column is patch n % P of picture n
// P, where a picture has P of them, row by row. Pictures are files in tars (``fourm.data.blobs``),
of which those are decoded of which a patch is asked for, cut as the tokens of the sample were.
Where files are large and slow to decode for what they hold, as PNG is, they are decoded once into a
column if that is small enough, and if each gives one sample. Patches of bytes stay bytes, a quarter
of what floats take on their way to the model, which makes floats of them.

A file whose damage shows when it is decoded is a modality that its sample lacks: it is logged once
by each process that meets it, and where too many are damaged, the run stops.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fourm.batches.tokens import Elements, Ragged, UnreadableElements
from fourm.data.blobs import Address, ReadMember, TarFiles, TarStamp, addresses_of
from fourm.data.columns import ChunkedColumn, made_once, stamp_of
from fourm.data.crop_settings import CropSettings
from fourm.data.crops import Crop, picture_key
from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.progress import OWN

_log = logging.getLogger(__name__)
LOSSLESS = ("png", "npy")  # files that are large and slow to decode
MAX_STORED = 8 << 30  # bytes of pixels of a column that is decoded once
_FEW = 100  # pictures before which no share of damaged ones is told


def open_pictures(
    shards: list[Path],
    m: Modality,
    crops: CropSettings,
    cache: Path,
    report: DamageReport,
    member: str,
    stored: Callable[[], ChunkedColumn],
) -> PictureColumn:
    """The pictures of these shards as a column of patches, from the cache or listed now.

    Args:
        crops: how many samples each gives.
        report: receives what the headers of the tars tell of damage; its ``max_rate`` is the share
            of pictures that may turn out to be damaged later.
        member: the modality to read, where shards hold several.
        stored: makes the column of decoded pictures.
    """
    tars = [TarStamp.of(path) for path in shards]

    def addresses(found: DamageReport) -> Iterator[tuple[Path, str, np.ndarray]]:
        return addresses_of(tars, m.raw.extensions, crops, member, found)

    listed = DamageReport()
    column = made_once(stamp_of(shards, member), addresses, described_as(m, crops), cache, listed)
    (chunk,) = column.chunks
    if crops.num_crops == 1 and _is_better_stored(chunk.values, m):
        column = stored()
        (chunk,) = column.chunks
        return PictureColumn(column, m.num_tokens, StoredPatches(chunk.values, m))
    report.merge(listed)
    patches = FilePatches(
        chunk.values, column.name, m, crops, TarFiles(tars), Damaged(report.max_rate)
    )
    return PictureColumn(column, m.num_tokens, patches)


def described_as(m: Modality, crops: CropSettings) -> str:
    """How a column of addresses is made."""
    return f"addresses of {m.raw.extensions} {crops}"


def _is_better_stored(addresses: np.ndarray, m: Modality) -> bool:
    """True where all files are lossless and their pixels take little room."""
    itemsize = 4 if m.raw.byte_scale is None else 1
    if len(addresses) * m.num_tokens * m.width * itemsize > MAX_STORED:
        return False
    kinds = np.unique(addresses[:, Address._fields.index("kind")])
    return all(m.raw.extensions[kind] in LOSSLESS for kind in kinds)


@dataclass(frozen=True)
class PictureColumn:
    """A column of pictures as one of their patches (``fourm.data.columns.Column``)."""

    pictures: ChunkedColumn  # a row of it is a picture, or says where it lies
    num_patches: int  # of a picture
    patches: Elements  # of all pictures

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
        self.pictures.check(rows)
        has, num = rows >= 0, self.num_patches
        starts, lengths = np.where(has, rows * num, 0), np.where(has, num, 0)
        return Ragged.of_one(self.patches, starts, lengths)


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


@dataclass
class Damaged:
    """Pictures that turned out to be damaged, as far as this process has met them."""

    max_rate: float  # largest share of those that were read
    rows: set[int] = field(default_factory=set)
    num_read: int = 0

    def add(self, row: int, what: str) -> None:
        """Note one. Raises UserError where they are too many."""
        self.rows.add(row)
        _log.warning("%s", what, extra=OWN)
        if len(self.rows) > self.max_rate * max(self.num_read, _FEW):
            raise UserError(
                f"{len(self.rows)} of {self.num_read} pictures are damaged (last: {what}); find"
                " them with `fourm inspect`, or allow more with max_damage"
            )


@dataclass(frozen=True)
class FileElements(ABC):
    """Elements of samples that are files in tars, each of them decoded for those that are asked
    for: number n is element n % N of row n // N, where a sample of the modality has N at most.
    """

    addresses: np.ndarray  # (S, 4 or more), see ``blobs.Address``
    name: Callable[[int], str]  # of a row: <shard>/<key>
    modality: Modality
    crops: CropSettings
    read: ReadMember
    damaged: Damaged

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """Of elements."""

    @abstractmethod
    def decoded(self, data: bytes, extension: str, crop: Crop | None) -> np.ndarray:
        """What a file holds. Raises ValueError or OSError where it is damaged."""

    @abstractmethod
    def chosen(self, value: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Elements (n, width) of a decoded file."""

    def __getitem__(self, numbers: np.ndarray, /) -> np.ndarray:
        """Elements (n, width); each run of one file's is decoded once.

        Raises UnreadableElements for those of damaged files, UserError where a tar has changed.
        """
        row, element = np.divmod(numbers, self.modality.num_tokens)
        first = np.flatnonzero(np.diff(row, prepend=-1))
        vectors = np.empty((len(numbers), self.modality.width), self.dtype)
        lost = np.zeros(len(numbers), bool)
        for start, end in zip(first, np.append(first[1:], len(numbers)), strict=True):
            value = self._value(int(row[start]))
            if value is None:
                lost[start:end] = True
            else:
                vectors[start:end] = self.chosen(value, element[start:end])
        if lost.any():
            raise UnreadableElements(lost)
        return vectors

    def _value(self, row: int) -> np.ndarray | None:
        """What the file of a row holds, None if it is damaged."""
        if row in self.damaged.rows:
            return None
        address = Address(*self.addresses[row, : len(Address._fields)].tolist())
        data = self.read(address.tar, address.offset, address.size)
        number = row % self.crops.num_crops
        shard, _, key = self.name(row).partition("/")
        crop = self.crops.crop(picture_key(key, number), number)
        self.damaged.num_read += 1
        try:
            return self.decoded(data, self.modality.raw.extensions[address.kind], crop)
        except (ValueError, OSError) as error:  # a strange picture fails in Pillow as it converts
            what = f"{self.modality.name} {shard}/{key}: {error}; the sample goes without"
            self.damaged.add(row, what)
            return None


@dataclass(frozen=True)
class FilePatches(FileElements):
    """Patches of pictures."""

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32 if self.modality.raw.byte_scale is None else np.uint8)

    def decoded(self, data: bytes, extension: str, crop: Crop | None) -> np.ndarray:
        return self.modality.raw.read_part(data, extension, crop)

    def chosen(self, value: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        return StoredPatches(value[None], self.modality)[numbers]
