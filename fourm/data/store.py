"""A source of samples: the columns of all its modalities, aligned by key."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fourm.batches.masking import MaskingConfig
from fourm.batches.tokens import SampleTokens
from fourm.config import at_least
from fourm.data.columns import Column
from fourm.data.exclude import Exclusion
from fourm.data.join import ByKey, key_in
from fourm.data.opening import Opening
from fourm.data.order import BlockOrder
from fourm.data.remote.columns import Fetched, RemoteData
from fourm.data.rows import Damaged, Presence, Rows, align
from fourm.data.shards import DamageReport
from fourm.errors import UserError
from fourm.modalities import ModalitySet

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set: where its token shards and its raw shards lie, what of them is used and how it
    is masked.
    """

    tokens: str = ""
    raw: str = ""  # for continuous modalities
    weight: float = 1.0
    # shuffled in blocks; by default so if it is read over a network, else as a whole
    order: BlockOrder | None = None
    modalities: tuple[str, ...] = ()  # those to use, all of which it must have; empty: all it has
    # modalities without which a sample is left out: names, or all that the data set has
    require: tuple[str, ...] | Literal["all"] = ()
    # what makes two members one sample: their shard and key, or the key alone
    join: Literal["shard/key", "key"] = "shard/key"
    # file of names <shard>/<key> that training leaves out, as `fourm inspect --leaks` writes it
    exclude: str = ""
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
    cache_bytes: int = 64 * 2**30  # most that blocks of remote files may take of the disk
    read_ahead: int = 16  # steps whose remote blocks are fetched before they are needed
    max_damage: float = 0.05  # largest share of samples that may be skipped

    def __post_init__(self) -> None:
        at_least(self, 0, "max_damage", "read_ahead")
        at_least(self, 1, "cache_bytes")
        if not self.sources:
            raise UserError("data needs at least one source")
        if not any(source.weight for source in self.sources):
            raise UserError("all sources have weight 0: no sample is ever drawn")


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
        remote: RemoteData | None = None,
    ) -> None:
        self.modalities = modalities
        self.name = config.name
        remote = remote or RemoteData(Path(cache))
        opening = Opening(config.tokens, config.raw, split, Path(cache), remote)
        self._columns: dict[str, Column] = {}
        reports: dict[str, DamageReport] = {}
        for m in [modalities[name] for name in config.modalities] or modalities:
            report = reports[m.name] = DamageReport(max_damage)
            column = opening.column(m, (fingerprints or {}).get(m.name), report)
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
        damaged, joined = _damaged(reports, self.present), self._columns
        if config.join == "key":
            damaged = replace(damaged, samples={key_in(name) for name in damaged.samples})
            joined = {name: ByKey(column) for name, column in joined.items()}
        excluded = Exclusion()
        if config.exclude:
            num_crops = opening.crops.num_crops
            excluded = Exclusion.read(config.exclude, num_crops, config.join == "key")
        self._rows = align(joined, required, Path(cache), damaged, excluded)
        self.report = _merged(reports, self._rows, max_damage)
        self.report.check(Path(cache) / f"damage-{Path(self.name).name}-{split}.json")
        self.num_samples = self._rows.num_samples
        self.blocks = config.order or (BlockOrder() if self._remote else None)
        if not self.num_samples:
            raise UserError(
                f"no sample under {self.name}/{split} has all of {', '.join(required)}"
                if required
                else f"no sample under {self.name}/{split} can be read or is not excluded"
            )

    @property
    def present(self) -> list[str]:
        """Names of the modalities that the data set has."""
        return list(self._columns)

    @property
    def excluded(self) -> tuple[int, tuple[str, ...]]:
        """How many samples are left out by name, and the names that no sample has."""
        return self._rows.num_excluded, self._rows.unknown

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

    @property
    def _remote(self) -> dict[int, Fetched]:
        """Columns whose values are fetched, by their number."""
        return {i: c for i, c in enumerate(self._columns.values()) if isinstance(c, Fetched)}

    @property
    def window_bytes(self) -> float:
        """Bytes of remote values that one window of its order needs; 0 if none are remote."""
        if not self._remote or self.blocks is None:
            return 0.0
        share = self.blocks.block * self.blocks.window / self.num_samples
        return sum(column.num_bytes for column in self._remote.values()) * min(1.0, share)

    def want(self, samples: np.ndarray) -> None:
        """Fetch, in the background, what samples number ``samples`` (n,) need of remote files."""
        if self.window_bytes:
            rows = self._rows(samples)
            for number, column in self._remote.items():
                column.want(rows[rows[:, number] >= 0, number])


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


def open_sources(
    config: DataConfig,
    split: str,
    modalities: ModalitySet,
    fingerprints: dict[str, str] | None = None,
) -> list[Source]:
    """All sources of a config; says which modalities a source lacks."""
    remote = RemoteData(Path(config.cache), config.cache_bytes)
    given_sources = config.sources
    if split != config.split:  # names are of training samples; other shards are named alike
        given_sources = tuple(replace(source, exclude="") for source in given_sources)
    sources = [
        Source(s, split, modalities, config.cache, config.max_damage, fingerprints, remote)
        for s in given_sources
    ]
    for given, source in zip(given_sources, sources, strict=True):
        wanted = () if given.modalities else modalities
        lacking = [m.name for m in wanted if m.name not in source.present]
        if lacking:
            _log.warning("%s/%s has no shards of %s", source.name, split, ", ".join(lacking))
        _warn_of_gaps(source, split)
        if given.exclude:
            _tell_excluded(source, given.exclude)
    needed = sum(source.window_bytes for source in sources)
    if needed > config.cache_bytes:
        _log.warning(
            "%s: a window of the order takes %.1f GB, data.cache_bytes is %.1f GB: blocks will be"
            " fetched again and again; raise that or lower order.window of the sources",
            *(split, needed / 1e9, config.cache_bytes / 1e9),
        )
    return sources


def _tell_excluded(source: Source, path: str) -> None:
    """Say how many samples are left out, and which names are of none."""
    num, unknown = source.excluded
    told = f"; no sample is called {', '.join(unknown[:3])}" if unknown else ""
    more = f" and {len(unknown) - 3:,} more of its names" if len(unknown) > 3 else ""
    say = _log.warning if unknown else _log.info
    total = num + source.num_samples
    say("%s: %s leaves out %d of %d samples%s%s", source.name, path, num, total, told, more)


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
