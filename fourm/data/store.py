"""A source of samples: the columns of all its modalities, aligned by key; and the batches drawn
from a mixture of sources.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from fourm.batch import MaskedBatch
from fourm.config import at_least
from fourm.data.columns import Column, open_column
from fourm.data.npy import read_npy
from fourm.data.order import SampleOrder
from fourm.data.patches import patches_of
from fourm.data.pictures import decode_rgb, is_plain
from fourm.data.shards import DamageReport, shard_paths
from fourm.errors import UserError
from fourm.masking import Masker, MaskingConfig
from fourm.modalities import Modality, ModalitySet
from fourm.tokens import Elements, Ragged, SampleTokens

_log = logging.getLogger(__name__)
TOKENIZER_FILE = "tokenizer.json"  # beside the token shards of a modality: who made them


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set: where its token shards and its raw shards lie, what of them is used and how it
    is masked.
    """

    tokens: str = ""
    raw: str = ""  # for continuous modalities
    weight: float = 1.0
    modalities: tuple[str, ...] = ()  # those to use, all of which it must have; empty: all it has
    masking: MaskingConfig | None = None  # of its own, instead of the run's

    @property
    def name(self) -> str:
        """What messages and figures call it."""
        return self.tokens or self.raw

    def __post_init__(self) -> None:
        at_least(self, 0, "weight")
        if not self.tokens and not self.raw:
            raise UserError("a source needs tokens or raw: the folder of its shards")
        unused = set(self.masking.names if self.masking and self.modalities else ())
        for name in sorted(unused - set(self.modalities)):
            raise UserError(
                f"a source's masking names {name}, which is not among its modalities"
                f" ({', '.join(self.modalities)})"
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources of samples, the splits to use, and where columns are cached."""

    sources: tuple[SourceConfig, ...]
    split: str = "train"
    validation_split: str = "val"
    cache: str = ".cache/fourm/columns"
    max_damage: float = 0.05  # largest share of samples that may be skipped

    def __post_init__(self) -> None:
        at_least(self, 0, "max_damage")
        if not self.sources:
            raise UserError("data needs at least one source")
        if not any(source.weight for source in self.sources):
            raise UserError("all sources have weight 0: no sample is ever drawn")


def token_dtype(vocab_size: int) -> np.dtype:
    """Type of ids on disk: uint16 up to 65,536 ids, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 65536 else np.uint32)


class Source:
    """The samples of one split of one data set that have all the modalities which the data set has
    at all.
    """

    def __init__(
        self,
        config: SourceConfig,
        split: str,
        modalities: ModalitySet,
        cache: str | Path,
        max_damage: float,
        fingerprints: dict[str, str] | None = None,
    ) -> None:
        self.modalities = modalities
        self.name = config.name
        report = DamageReport(max_damage)
        columns: dict[str, Column] = {}
        used = [modalities[name] for name in config.modalities] or list(modalities)
        for m in used:
            root = config.raw if m.kind == "continuous" else config.tokens
            folder = m.raw_name if m.kind == "continuous" else m.name
            shards = shard_paths(root, split, folder) if root else []
            member = ""
            if root and not shards:  # tars that hold several modalities lie in the split's folder
                shards, member = shard_paths(root, split, ""), folder
            if not shards:
                continue
            if m.kind != "continuous":
                _check_tokenizer(
                    Path(root, split, folder, TOKENIZER_FILE), m, (fingerprints or {}).get(m.name)
                )
            extensions = m.raw.extensions if m.kind == "continuous" else ("npy",)
            column = open_column(
                shards,
                _decoder(m),
                extensions,
                _described(m),
                Path(cache),
                report,
                member=member,
                stays_encoded=_stays_a_file if _has_bytes(m) else None,
            )
            if len(column) or not member:
                columns[m.name] = column
        for name in config.modalities:
            if name not in columns:
                raise UserError(
                    f"{self.name}/{split} has no shards of {name}, which the source's modalities"
                    f" name; it has {', '.join(columns) or 'none of them'}"
                )
        if not columns:
            raise UserError(
                f"no shards of any modality under {self.name}/{split}; expected"
                f" {self.name}/{split}/<modality>/00000.tar"
            )
        self._columns = columns
        self._elements = {name: _elements(c, modalities[name]) for name, c in columns.items()}
        self._rows = _align(columns, report)
        report.check(Path(cache) / f"damage-{Path(self.name).name}-{split}.json")
        self.num_samples = len(next(iter(self._rows.values())))
        if not self.num_samples:
            raise UserError(f"no sample under {self.name}/{split} has all of {', '.join(columns)}")
        self.report = report

    @property
    def present(self) -> list[str]:
        """Names of the modalities that the data set has."""
        return list(self._columns)

    def keys(self, samples: np.ndarray) -> list[str]:
        """Names of samples, ``<shard>/<key>``."""
        name = next(iter(self._columns))
        return [str(key) for key in self._columns[name].keys[self._rows[name][samples]]]

    def gather(self, samples: np.ndarray) -> SampleTokens:
        """Tokens of samples number ``samples`` (B,): where they lie."""
        content = {}
        for name, column in self._columns.items():
            m, rows = self.modalities[name], self._rows[name][samples]
            if m.patch_size:
                starts, lengths = rows * m.num_tokens, np.full(len(rows), m.num_tokens)
            else:
                starts = column.offsets[rows]
                lengths = np.minimum(column.offsets[rows + 1] - starts, m.num_tokens)
            content[name] = Ragged.of_one(self._elements[name], starts, lengths)
        return SampleTokens(np.asarray(samples), content)


def _elements(column: Column, m: Modality) -> Elements:
    """The tokens of a column, to be read by their numbers."""
    # a plain array: compiled code knows no memory-mapped one, and need not
    return patches_of(column, m) if m.patch_size else np.asarray(column.values)


def _has_bytes(m: Modality) -> bool:
    """True for pictures that patches are cut of, as bytes."""
    return bool(m.patch_size) and m.raw.byte_scale is not None


def _stays_a_file(data: bytes, pictures: np.ndarray) -> bool:
    """True if the file, decoded plainly, is what its type reads: of its size, not turned ..."""
    return is_plain(data) and np.array_equal(decode_rgb(data), pictures[0])


def to_vectors(values: np.ndarray, m: Modality) -> np.ndarray:
    """Raw values (B, H, W, C) or (B, L, C) -> the vectors (B, n, C') that the model projects, about
    unit scale.
    """
    if not m.patch_size:
        return values.astype(np.float32)
    values = m.raw.to_floats(values)
    return rearrange(values, "b (h p) (w q) c -> b (h w) (p q c)", p=m.patch_size, q=m.patch_size)


def _decoder(m: Modality):
    if m.kind == "continuous":
        if m.patch_size:  # a column holds rows: a picture is one of them
            return lambda data, extension: m.raw.read(data, extension)[None]
        return m.raw.read
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


def _described(m: Modality) -> str:
    raw = m.raw if m.kind == "continuous" else ""
    return f"{m.kind} {m.vocab_size} {m.num_tokens} {raw} {m.patch_size}"


def _check_tokenizer(path: Path, m: Modality, wanted: str | None) -> None:
    """Refuse token shards of another tokenizer, or of another vocabulary."""
    if not path.is_file():
        return  # shards from elsewhere: ids are still checked against the vocabulary
    made_by = json.loads(path.read_text())
    if made_by["vocab_size"] > m.vocab_size:
        raise UserError(
            f"{path.parent} was made by a tokenizer of {made_by['vocab_size']} ids, the config"
            f" declares {m.vocab_size} for {m.name}"
        )
    if wanted is not None and made_by["fingerprint"] != wanted:
        raise UserError(
            f"{path.parent} was made by tokenizer {made_by['fingerprint']}, the one in use is"
            f" {wanted}: tokenize the data again"
        )


def _align(columns: dict[str, Column], report: DamageReport) -> dict[str, np.ndarray]:
    """Rows of each column for the keys that all columns have, in the first column's order.

    Keys that some column lacks are reported, once each, unless they are already listed as damaged
    there.
    """
    first, *others = columns
    shared = columns[first].keys
    listed = {f"{shard}/{key}" for _, shard, key in report.samples}
    if all(np.array_equal(columns[name].keys, shared) for name in others):
        report.num_seen = _num_distinct(shared, listed)
        return {name: np.arange(len(shared)) for name in columns}
    for name in others:
        shared = shared[np.isin(shared, columns[name].keys)]
    everything = np.unique(np.concatenate([column.keys for column in columns.values()]))
    report.num_seen = _num_distinct(everything, listed)
    held = {name: set(column.keys.tolist()) for name, column in columns.items()}
    for key in everything[~np.isin(everything, shared)].tolist():
        if key not in listed:
            has, lacks = (
                [n for n in columns if key in held[n]],
                [n for n in columns if key not in held[n]],
            )
            shard, _, name = key.partition("/")
            report.add(shard, name, f"{', '.join(has)} has it, {', '.join(lacks)} does not")
    rows = {}
    for name, column in columns.items():
        order = np.argsort(column.keys, kind="stable")
        rows[name] = order[np.searchsorted(column.keys, shared, sorter=order)]
    return rows


def _num_distinct(keys: np.ndarray, listed: set[str]) -> int:
    """Samples there are: those with a key in some column, and those that none could read."""
    return len(keys) + int((~np.isin(np.array(list(listed), np.str_), keys)).sum())


class MaskedBatches(torch.utils.data.Dataset):
    """Step number -> the masked micro-batches of one rank at that step.

    The global batch of step s is draws s * batch_size ... ; each rank takes its own slice, so
    sources, samples and masks are the same on any number of ranks and workers.
    """

    def __init__(
        self,
        sources: list[Source],
        order: SampleOrder,
        masker: Masker,
        batch_size: int,
        num_micro_batches: int,
        rank: int,
        world_size: int,
    ) -> None:
        if batch_size % (world_size * num_micro_batches):
            raise UserError(
                f"batch size {batch_size} is not a multiple of {world_size} ranks x"
                f" {num_micro_batches} micro-batches"
            )
        self._sources, self._order, self._masker = sources, order, masker
        self._batch_size, self._num_micro = batch_size, num_micro_batches
        self._rank, self._world = rank, world_size
        for source in sources:
            masker.compile(source.gather(np.zeros(2, np.int64)))

    def __getitem__(self, step: int) -> list[MaskedBatch]:
        each = self._batch_size // (self._world * self._num_micro)
        result = []
        for micro in range(self._num_micro):
            first = step * self._batch_size + (micro * self._world + self._rank) * each
            draws = np.arange(first, first + each)
            result.append(self._masker(self.tokens(draws), draws))
        return result

    def tokens(self, draws: np.ndarray) -> SampleTokens:
        """Samples of the draws (B,), before masking."""
        drawn = self._order(draws)
        if len(self._sources) == 1:  # its numbers are all 0
            return self._sources[0].gather(drawn.sample)
        parts, at = [], []
        for i, source in enumerate(self._sources):
            places = np.flatnonzero(drawn.source == i)
            if len(places):
                parts.append(source.gather(drawn.sample[places]))
                at.append(places)
        return _merge(parts, at, drawn.source)


def _merge(parts: list[SampleTokens], at: list[np.ndarray], source: np.ndarray) -> SampleTokens:
    """Samples of several sources in the order of their draws; what a source lacks has length 0."""
    num = len(source)
    samples = np.zeros(num, np.int64)
    for part, places in zip(parts, at, strict=True):
        samples[places] = part.samples
    content = {}
    for name in dict.fromkeys(name for part in parts for name in part.content):
        elements: list[Elements] = []
        of_part, starts, lengths = np.zeros((3, num), np.int64)
        for part, places in zip(parts, at, strict=True):
            held = part.content.get(name)
            if held is not None:
                of_part[places] = held.part + len(elements)
                starts[places], lengths[places] = held.starts, held.lengths
                elements += held.parts
        content[name] = Ragged(tuple(elements), of_part, starts, lengths)
    return SampleTokens(samples, content, source)


def open_sources(
    config: DataConfig,
    split: str,
    modalities: ModalitySet,
    fingerprints: dict[str, str] | None = None,
) -> list[Source]:
    """All sources of a config; says which modalities a source lacks."""
    sources = [
        Source(s, split, modalities, config.cache, config.max_damage, fingerprints)
        for s in config.sources
    ]
    for given, source in zip(config.sources, sources, strict=True):
        wanted = () if given.modalities else modalities
        lacking = [m.name for m in wanted if m.name not in source.present]
        if lacking:
            _log.warning("%s/%s has no shards of %s", source.name, split, ", ".join(lacking))
    return sources


def fixed_batch(
    source: Source, modalities: ModalitySet, masking: MaskingConfig, seed: int, samples: np.ndarray
) -> MaskedBatch:
    """A batch with masks that depend on the samples' numbers alone: for evaluation."""
    return Masker(modalities, masking, seed)(source.gather(samples), samples)
