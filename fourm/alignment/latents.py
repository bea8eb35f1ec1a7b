"""Cached latents of a frozen encoder: one memory-mapped matrix, its keys, and what made it.

A folder holds ``vectors.npy`` (n, d), ``keys.txt`` (one key a line), ``latents.json`` (encoder,
fingerprint, hash of the keys), and, where rows are tokens of samples, ``offsets.npy`` (samples +
1,); ``groups.txt`` says which samples belong to one subject (several captions of one picture),
``splits.txt`` of which split of the data each is.
Nothing is pickled. Latents of two encoders are used together only through ``paired``, which refuses
other keys or order.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fourm.errors import UserError

VECTORS, OFFSETS, KEYS, GROUPS, SPLITS, ABOUT = (
    "vectors.npy",
    "offsets.npy",
    "keys.txt",
    "groups.txt",
    "splits.txt",
    "latents.json",
)
_CHECKED_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class LatentInfo:
    """Who made latents, and of what."""

    encoder: str
    fingerprint: str  # of the encoder's name and weights
    modality: str  # that was encoded
    dim: int
    num: int  # samples
    keys: str  # hash of the keys in order


@dataclass(frozen=True)
class Latents:
    """Opened latents.

    ``vectors`` are rows; row i belongs to ``keys[i]`` unless there are ``offsets``.
    """

    info: LatentInfo
    vectors: np.ndarray  # (rows, d), memory-mapped
    keys: list[str]
    groups: list[str]
    offsets: np.ndarray | None = None
    splits: list[str] | None = None  # None: not known

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """Vectors of samples (B, d) float32; of token latents the mean of each sample's tokens."""
        if self.offsets is None:
            return np.asarray(self.vectors[samples], np.float32)
        return np.stack(
            [
                np.asarray(self.vectors[self.offsets[i] : self.offsets[i + 1]], np.float32).mean(0)
                for i in samples
            ]
        )

    def tokens(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Padded tokens (B, L, d) float32 and their mask (B, L), True = a token."""
        if self.offsets is None:
            return self.rows(samples)[:, None], np.ones((len(samples), 1), bool)
        lengths = self.offsets[samples + 1] - self.offsets[samples]
        padded = np.zeros((len(samples), max(1, int(lengths.max())), self.info.dim), np.float32)
        mask = np.arange(padded.shape[1]) < lengths[:, None]
        padded[mask] = np.concatenate(
            [self.vectors[self.offsets[i] : self.offsets[i + 1]] for i in samples]
        )
        return padded, mask

    @cached_property
    def group_ids(self) -> np.ndarray:
        """An integer for each sample, equal within a group."""
        return np.unique(self.groups, return_inverse=True)[1]


def write_latents(
    folder: Path,
    vectors: np.ndarray,
    keys: list[str],
    *,
    encoder: str,
    fingerprint: str,
    modality: str,
    groups: list[str] | None = None,
    splits: list[str] | None = None,
    offsets: np.ndarray | None = None,
) -> None:
    """Write a folder of latents. Raises UserError for counts that do not agree."""
    _count(vectors, keys, groups, splits, offsets)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)  # written last: a folder without it is not finished
    np.save(folder / VECTORS, vectors, allow_pickle=False)
    describe_latents(
        folder,
        vectors,
        keys,
        encoder=encoder,
        fingerprint=fingerprint,
        modality=modality,
        groups=groups,
        splits=splits,
        offsets=offsets,
    )


def _count(
    vectors: np.ndarray,
    keys: list[str],
    groups: list[str] | None,
    splits: list[str] | None,
    offsets: np.ndarray | None,
) -> int:
    """Number of samples, the same by all accounts."""
    num = len(vectors) if offsets is None else len(offsets) - 1
    told = [len(lines) for lines in (keys, groups, splits) if lines is not None]
    if vectors.ndim != 2 or any(count != num for count in told):
        raise UserError(f"{num} latents of shape {vectors.shape} do not go with {len(keys)} keys")
    return num


def describe_latents(
    folder: Path,
    vectors: np.ndarray,
    keys: list[str],
    *,
    encoder: str,
    fingerprint: str,
    modality: str,
    groups: list[str] | None = None,
    splits: list[str] | None = None,
    offsets: np.ndarray | None = None,
) -> None:
    """Finish a folder whose vectors are written already.

    Raises UserError for counts that do not agree.
    """
    num = _count(vectors, keys, groups, splits, offsets)
    for name in (OFFSETS, GROUPS, SPLITS):  # of an earlier packing
        (folder / name).unlink(missing_ok=True)
    if offsets is not None:
        np.save(folder / OFFSETS, offsets.astype(np.int64), allow_pickle=False)
    for name, lines in ((KEYS, keys), (GROUPS, groups), (SPLITS, splits)):
        if lines is not None:
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
    info = LatentInfo(
        encoder=encoder,
        fingerprint=fingerprint,
        modality=modality,
        dim=vectors.shape[1],
        num=num,
        keys=hash_keys(keys),
    )
    (folder / ABOUT).write_text(json.dumps(asdict(info), indent=1) + "\n")


def open_latents(folder: str | Path) -> Latents:
    """Open a folder.

    Raises UserError for one that is unfinished, inconsistent, or holds numbers that are not finite.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise UserError(
            f"no latents in {folder}: {ABOUT} is missing (make them with `fourm latents`)"
        )
    try:
        info = LatentInfo(**json.loads((folder / ABOUT).read_text()))
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        offsets = (
            np.load(folder / OFFSETS, allow_pickle=False) if (folder / OFFSETS).is_file() else None
        )
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise UserError(f"latents in {folder} cannot be read: {error}") from None
    lines = {
        name: (folder / name).read_text().splitlines()
        for name in (KEYS, GROUPS, SPLITS)
        if (folder / name).is_file()
    }
    keys, splits = lines.get(KEYS, []), lines.get(SPLITS)
    groups = lines.get(GROUPS, keys)
    num = len(vectors) if offsets is None else len(offsets) - 1
    if (
        not num == len(keys) == len(groups) == len(splits or keys) == info.num
        or vectors.shape[1] != info.dim
        or hash_keys(keys) != info.keys
    ):
        raise UserError(
            f"latents in {folder} are inconsistent: {num} rows, {len(keys)} keys, {info.num}"
            " promised"
        )
    for start in range(0, len(vectors), _CHECKED_ROWS):
        finite = np.isfinite(vectors[start : start + _CHECKED_ROWS]).all(1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            at = row if offsets is None else int(np.searchsorted(offsets, row, "right")) - 1
            raise UserError(f"latents in {folder}: those of {keys[at]!r} are not finite numbers")
    return Latents(info, vectors, keys, groups, offsets, splits)


def paired(named: dict[str, Latents]) -> dict[str, Latents]:
    """The same latents, checked to be of the same samples in the same order.

    Raises UserError that names the first difference.
    """
    (first_name, first), *others = named.items()
    for name, other in others:
        if other.info.keys == first.info.keys:
            continue
        where = next(
            (i for i, (a, b) in enumerate(zip(first.keys, other.keys, strict=False)) if a != b),
            None,
        )
        detail = (
            f"sample {where} is {first.keys[where]!r} and {other.keys[where]!r}"
            if where is not None
            else "one ends earlier"
        )
        raise UserError(
            f"latents {first_name} ({len(first)} samples) and {name} ({len(other)}) are not of the"
            f" same samples in the same order: {detail}"
        )
    return named


def grouped_by(named: dict[str, Latents], modality: str) -> dict[str, Latents]:
    """Paired latents, all with the groups of one of them. Raises UserError for another name."""
    if modality not in named:
        raise UserError(f"groups: {modality!r} is none of the latents {', '.join(named)}")
    groups = named[modality].groups
    return {name: replace(held, groups=groups) for name, held in named.items()}


def hash_keys(keys: list[str]) -> str:
    """What tells a list of samples from another one: 16 hexadecimal digits."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
