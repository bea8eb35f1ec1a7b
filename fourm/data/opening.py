"""The column of a modality in a data set, whatever its samples lie in: chunks or tars, on this
machine or on a server; tokens, or raw values of continuous modalities, cut as the tokens were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from einops import rearrange

from fourm.data.chunks import PIECES, Chunk, chunk_folders
from fourm.data.columns import (
    TOKENIZER_FILE,
    ChunkedColumn,
    Column,
    check_ids,
    check_tokenizer,
    made_once,
    open_column,
    stamp_of,
)
from fourm.data.crop_settings import CropSettings, cut_samples
from fourm.data.npy import read_npy
from fourm.data.patches import open_pictures
from fourm.data.remote.columns import RemoteData, is_remote
from fourm.data.shards import DamageReport, shard_paths
from fourm.errors import UserError
from fourm.modalities import Modality


def token_dtype(vocab_size: int) -> np.dtype:
    """Type of ids on disk: uint16 up to 65,536 ids, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


@dataclass(frozen=True)
class Opening:
    """Opens the columns of one split of one data set.

    Args:
        tokens, raw: folders of its shards, or their addresses on a server; empty: it has none.
        cache: folder of columns that are made once.
    """

    tokens: str
    raw: str
    split: str
    cache: Path
    remote: RemoteData

    @cached_property
    def crops(self) -> CropSettings:
        """How samples were cut out of pictures, as the tokens say."""
        if is_remote(self.tokens):
            return self.remote.crop_settings(self.tokens, self.split)
        return CropSettings.read(Path(self.tokens, self.split)) if self.tokens else CropSettings()

    def column(self, m: Modality, fingerprint: str | None, report: DamageReport) -> Column | None:
        """The column of a modality, or None if the data set has none.

        Args:
            fingerprint: of its tokenizer, if it is known.
            report: receives what cannot be read.
        """
        if m.kind == "continuous":
            return self._raw(m, report)
        if is_remote(self.tokens):
            return self.remote.column(self.tokens, self.split, m, fingerprint)
        place = Path(self.tokens, self.split, m.name)
        chunks = chunk_folders(self.tokens, self.split, m.name) if self.tokens else []
        if chunks or (self.tokens and (place / PIECES).is_dir()):
            return _open_chunks(place, chunks, m, fingerprint)
        shards, member = self._shards(self.tokens, m.name)
        if not shards:
            return None
        _check_note(place / TOKENIZER_FILE, m, fingerprint)
        column = self._decoded(shards, m, report, member)
        return None if member and not column.num_samples else column

    def _raw(self, m: Modality, report: DamageReport) -> Column | None:
        if is_remote(self.raw):
            return self.remote.raw(self.raw, self.split, m, self.crops, report)
        shards, member = self._shards(self.raw, m.raw_name)
        if not shards:
            return None
        crops, cache = self.crops, self.cache
        if m.patch_size:
            decoded = partial(self._decoded, shards, m, report, member)
            column = open_pictures(shards, m, crops, cache, report, member, decoded)
        elif crops.num_crops > 1:
            cut = partial(cut_samples, shards, m.raw, decoder_of(m), crops, member)
            described = f"{_described(m)} {crops}"
            column = made_once(stamp_of(shards, member), cut, described, cache, report)
        else:
            column = self._decoded(shards, m, report, member)
        return None if member and not column.num_samples else column

    def _shards(self, root: str, folder: str) -> tuple[list[Path], str]:
        """The tars of a modality, and its name within them if they hold several."""
        shards = shard_paths(root, self.split, folder) if root else []
        if root and not shards:  # tars that hold several modalities lie in the split's folder
            return shard_paths(root, self.split, ""), folder
        return shards, ""

    def _decoded(
        self, shards: list[Path], m: Modality, report: DamageReport, member: str
    ) -> ChunkedColumn:
        extensions = m.raw.extensions if m.kind == "continuous" else ("npy",)
        decode, described = decoder_of(m), _described(m)
        return open_column(shards, decode, extensions, described, self.cache, report, member=member)


def _open_chunks(folder: Path, chunks: list[Path], m: Modality, fingerprint: str | None) -> Column:
    """The column in a folder of chunks. Raises UserError where they are not of this modality."""
    if (folder / PIECES).is_dir():
        raise UserError(f"{folder} is not finished: run `fourm tokenize` again, it goes on")
    _check_note(folder / TOKENIZER_FILE, m, fingerprint)
    column = ChunkedColumn(tuple(Chunk.open(chunk) for chunk in chunks))
    for chunk in column.chunks:
        check_ids(chunk, m)
    return column


def to_vectors(values: np.ndarray, m: Modality) -> np.ndarray:
    """Raw values (B, H, W, C) or (B, L, C) -> the vectors (B, n, C') that the model projects, about
    unit scale.
    """
    if not m.patch_size:
        return values.astype(np.float32)
    values = m.raw.to_floats(values)
    return rearrange(values, "b (h p) (w q) c -> b (h w) (p q c)", p=m.patch_size, q=m.patch_size)


def decoder_of(m: Modality) -> Callable[[bytes, str], np.ndarray]:
    """What reads a member of a shard of this modality: (bytes, extension) -> (L, ...)."""
    if m.kind == "continuous":
        if m.patch_size:  # a column holds rows: a picture is one of them
            return lambda data, extension: m.raw.read(data, extension)[None]
        return partial(_read_vectors, m)
    dtype = token_dtype(m.vocab_size)

    def decode(data: bytes, extension: str) -> np.ndarray:
        ids = read_npy(data).reshape(-1)
        if ids.dtype.kind not in "iu":
            raise UserError(f"ids must be integers, not {ids.dtype}")
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= m.vocab_size):
            raise UserError(f"id {int(ids.max())} is outside the vocabulary of {m.vocab_size}")
        if m.kind != "sequence" and len(ids) != m.num_tokens:
            raise UserError(f"{len(ids)} ids where {m.name} has {m.num_tokens}")
        return ids.astype(dtype)

    return decode


def _read_vectors(m: Modality, data: bytes, extension: str) -> np.ndarray:
    value = m.raw.read(data, extension)
    shape = np.shape(value)
    if not isinstance(value, np.ndarray) or len(shape) != 2 or shape[1] != m.width:
        raise UserError(
            f"values of type {m.raw.type_name} and shape {shape} are no vectors (n, {m.width}):"
            f" the continuous modality {m.name} needs patch_size, or raw type vectors"
        )
    return value


def _described(m: Modality) -> str:
    raw = m.raw if m.kind == "continuous" else ""
    return f"{m.kind} {m.vocab_size} {m.num_tokens} {raw} {m.patch_size}"


def _check_note(path: Path, m: Modality, wanted: str | None) -> None:
    """Refuse token shards of another tokenizer, or of another vocabulary."""
    if path.is_file():  # else shards from elsewhere: ids are still checked against the vocabulary
        check_tokenizer(path.read_text(), str(path.parent), m, wanted)
