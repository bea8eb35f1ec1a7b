"""A source of samples: the columns of all its modalities, aligned by key; and the batches drawn
from a mixture of sources.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange

from fourm.batch import MaskedBatch
from fourm.config import at_least
from fourm.data.columns import Column, open_column
from fourm.data.npy import read_npy
from fourm.data.order import SampleOrder
from fourm.data.patches import PictureColumn
from fourm.data.pictures import decode_rgb, is_plain
from fourm.data.rows import Damaged, Presence, Rows, align
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
    # modalities without which a sample is left out: names, or all that the data set has
    require: tuple[str, ...] | Literal["all"] = ()
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
    """The samples of one split of one data set: each with whatever modalities it has."""

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
        self._columns: dict[str, Column] = {}
        reports: dict[str, DamageReport] = {}
        for m in [modalities[name] for name in config.modalities] or modalities:
            report = reports[m.name] = DamageReport()
            column = _open(config, split, m, Path(cache), report, fingerprints or {})
            if column is not None:
                self._columns[m.name] = column
        for name in config.modalities:
            if name not in self._columns:
                raise UserError(
                    f"{self.name}/{split} has no shards of {name}, which the source's modalities"
                    f" name; it has {', '.join(self._columns) or 'none of them'}"
                )
        if not self._columns:
            raise UserError(
                f"no shards of any modality under {self.name}/{split}; expected"
                f" {self.name}/{split}/<modality>/00000.tar"
            )
        required = _required(config, self.name, split, modalities, self.present)
        damaged = _damaged(reports, self.present)
        self._rows = align(self._columns, required, Path(cache), damaged)
        self.report = _merged(reports, self._rows, max_damage)
        self.report.check(Path(cache) / f"damage-{Path(self.name).name}-{split}.json")
        self.num_samples = self._rows.num_samples
        if not self.num_samples:
            raise UserError(
                f"no sample under {self.name}/{split} has all of {', '.join(required)}"
                if required
                else f"no sample under {self.name}/{split} can be read"
            )

    @property
    def present(self) -> list[str]:
        """Names of the modalities that the data set has."""
        return list(self._columns)

    @property
    def presence(self) -> Presence:
        """How many samples have which of them."""
        return self._rows.presence

    def keys(self, samples: np.ndarray) -> list[str]:
        """Names of samples, ``<shard>/<key>``."""
        columns, names = list(self._columns.values()), []
        for rows in self._rows(samples):
            first = int(np.argmax(rows >= 0))
            names.append(columns[first].name(int(rows[first])))
        return names

    def gather(self, samples: np.ndarray) -> SampleTokens:
        """Tokens of samples number ``samples`` (B,): where they lie."""
        content, rows = {}, self._rows(samples).T
        for (name, column), of_column in zip(self._columns.items(), rows, strict=True):
            held = column.ragged(of_column)
            most = self.modalities[name].num_tokens
            if held.lengths.max(initial=0) > most:
                held = replace(held, lengths=np.minimum(held.lengths, most))
            content[name] = held
        return SampleTokens(np.asarray(samples), content)


def _open(
    config: SourceConfig,
    split: str,
    m: Modality,
    cache: Path,
    report: DamageReport,
    fingerprints: dict[str, str],
) -> Column | None:
    """The column of a modality, or None if the data set has none."""
    root = config.raw if m.kind == "continuous" else config.tokens
    folder = m.raw_name if m.kind == "continuous" else m.name
    shards = shard_paths(root, split, folder) if root else []
    member = ""
    if root and not shards:  # tars that hold several modalities lie in the split's folder
        shards, member = shard_paths(root, split, ""), folder
    if not shards:
        return None
    if m.kind != "continuous":
        _check_tokenizer(Path(root, split, folder, TOKENIZER_FILE), m, fingerprints.get(m.name))
    column = open_column(
        shards,
        _decoder(m),
        m.raw.extensions if m.kind == "continuous" else ("npy",),
        _described(m),
        cache,
        report,
        member=member,
        stays_encoded=_stays_a_file if _has_bytes(m) else None,
    )
    if member and not len(column):
        return None
    return PictureColumn(column, m) if m.patch_size else column


def _required(
    config: SourceConfig, name: str, split: str, modalities: ModalitySet, present: list[str]
) -> list[str]:
    """Modalities that a sample must have. Raises UserError for one that the data set lacks."""
    required = present if config.require == "all" else list(config.require)
    for wanted in required:
        modalities.index(wanted)
        if wanted not in present:
            raise UserError(
                f"{name}/{split} has no shards of {wanted}, which it requires; it has"
                f" {', '.join(present)}"
            )
    return required


def _damaged(reports: dict[str, DamageReport], present: list[str]) -> Damaged:
    """What could not be read, by the names that columns have for it."""
    names = {f"{shard}/{key}" for r in reports.values() for _, shard, key in r.samples}
    cut = {(name, Path(shard).stem) for name in present for shard in reports[name].shards}
    return Damaged(names, frozenset(cut))


def _merged(reports: dict[str, DamageReport], rows: Rows, max_damage: float) -> DamageReport:
    """One report of all columns, of samples that are there or were to be."""
    merged = DamageReport(max_damage)
    paths = {}
    for name, report in reports.items():
        merged.merge(report)
        paths |= {(name, Path(shard).stem): shard for shard in report.shards}
    listed = merged.samples
    for lost in rows.lost:
        shard, _, key = lost.name.partition("/")
        path = paths[lost.modality, shard]
        if (Path(path).parent.parent.name, shard, key) not in listed:
            merged.add(path, key, "behind the end of a shard that ends early")
    merged.num_seen = rows.presence.num_samples + rows.num_unread
    return merged


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
        _warn_of_gaps(source, split)
    return sources


def _warn_of_gaps(source: Source, split: str) -> None:
    """Say how many samples lack something, and where no keys fit."""
    found = source.presence
    if found.num_complete < found.num_samples:
        counts = ", ".join(f"{name} {found.of(name)}" for name in found.modalities)
        _log.warning(
            "%s/%s: %d of %d samples have all modalities (%s); %d are used",
            *(source.name, split, found.num_complete, found.num_samples, counts, found.num_kept),
        )
    if found.strangers:
        _log.warning(
            "%s/%s: no sample of %s has any other modality: are shards and keys named alike?",
            *(source.name, split, ", ".join(found.strangers)),
        )


def fixed_batch(
    source: Source, modalities: ModalitySet, masking: MaskingConfig, seed: int, samples: np.ndarray
) -> MaskedBatch:
    """A batch with masks that depend on the samples' numbers alone: for evaluation."""
    return Masker(modalities, masking, seed)(source.gather(samples), samples)
