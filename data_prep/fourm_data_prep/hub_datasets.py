"""Hugging Face datasets as a source: ``fourm import hf:NAME[:SPLIT]``, on disk or streamed from the
hub.

``NAME`` is a folder that ``save_to_disk`` wrote, a local folder or file that ``datasets`` reads
(Parquet, an image folder, webdataset), or a hub id, e.g. CC12M's copy
``hf:pixparse/cc12m-wds:train``. What is on disk is cut into ranges of rows; what is streamed into
the dataset's own files, each of them one shard of each split. Rows are read once, files in them
undecoded, so that the import's own guards see their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage
from fourm.errors import UserError, listed
from fourm.modalities import Modality
from fourm.raw.numbers import Numbers
from fourm_data_prep.columns import KEY_COLUMNS, RowReader, check_columns
from fourm_data_prep.paired import write_samples
from fourm_data_prep.picture_shards import (
    SHARD_PICTURES,
    Item,
    describe,
    plain_key,
    write_pictures,
)
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint
from fourm_data_prep.splits import Place, Split
from fourm_data_prep.tables import (
    CAPTION_COLUMNS,
    GROUP_COLUMNS,
    cell_text,
    find_column,
    one_caption,
)

_PICTURE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "picture", "img")


class DatasetRows:
    """A data set in parts, each of which becomes a shard; opened where it is first asked for."""

    def __init__(self, source: str) -> None:
        name, colon, split = source.rpartition(":")
        self.name, self.split = (
            (name, split) if colon and not Path(source).exists() else (source, "train")
        )
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # workers open their own

    @property
    def dataset(self) -> Any:
        """The data set itself; what it holds of files is left as bytes."""
        if self._opened is None:
            self._opened = _undecoded(open_dataset(self.name, self.split))
        return self._opened

    @property
    def columns(self) -> list[str]:
        """Names of its columns; none where the first row tells them."""
        return list(self.dataset.features or {})

    @property
    def _streamed(self) -> bool:
        return not hasattr(self.dataset, "__len__")

    def jobs(self, described: Any) -> list[Job]:
        """A job for each part; ``described`` is what else a shard depends on."""
        identity = [self.name, self.split, described]
        if self._streamed:
            num = self.dataset.num_shards
        else:
            num = -(-len(self.dataset) // SHARD_PICTURES)
            identity.append(self.dataset._fingerprint)
        return [Job("rows", number, fingerprint([*identity, number])) for number in range(num)]

    def rows(self, job: Job) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The rows of a part, each with its place as a name."""
        if self._streamed:
            rows: Any = self.dataset.shard(self.dataset.num_shards, job.number)
        else:
            first = job.number * SHARD_PICTURES
            rows = self.dataset.select(range(first, min(first + SHARD_PICTURES, len(self.dataset))))
        for i, row in enumerate(rows):
            yield f"{job.number:05d}-{i:06d}", row


class ImportDatasetStep:
    """Pictures of a dataset, with their captions -> raw shards of what is made of them."""

    name = "import"

    def __init__(self, made: list[Modality], rows: DatasetRows, out: Path, split: Split) -> None:
        if rows.columns:
            split.check(rows.columns, f"hf:{rows.name}")
        self.made, self.rows, self.out, self.split = made, rows, out, split

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        return self.rows.jobs(repr(self.split))

    def run(self, job: Job) -> ShardResult:
        damage: list[Damage] = []
        result = write_pictures(self._pictures(job, damage), self.made, self.out, job)
        return replace(result, damage=(*result.damage, *damage))

    def _pictures(self, job: Job, damage: list[Damage]) -> Iterator[tuple[Item, bytes]]:
        source, names, seen = self.rows.name, self.rows.columns, set()
        for name, row in self.rows.rows(job):
            names = names or list(row)
            picture, caption, key, group = (
                find_column(names, wanted)
                for wanted in (_PICTURE_COLUMNS, CAPTION_COLUMNS, KEY_COLUMNS, GROUP_COLUMNS)
            )
            if picture is None:
                raise UserError(
                    f"dataset {source} has no column {', '.join(_PICTURE_COLUMNS)}; it has"
                    f" {listed(names)}"
                )
            label = plain_key(str(row[key]) if key else name)
            if label in seen:  # ids that are none
                label = f"{label}_{name}"
            seen.add(label)
            data = _bytes(row[picture])
            text = one_caption(row[caption]) if caption else ""
            try:
                if data is None:
                    raise UserError("no picture in this row")
                place = Place(label, (), row, cell_text(row[group]) if group else "")
                split = self.split.of(place)
            except UserError as error:
                damage.append(Damage(source, label, str(error)))
                continue
            yield Item(label, Path(source), " ".join(text.split()), split=split), data


class ImportColumnsStep:
    """Rows with a column for each modality -> raw shards."""

    name = "import"

    def __init__(
        self,
        made: list[Modality],
        columns: Mapping[str, str],
        rows: DatasetRows,
        out: Path,
        split: Split,
        require: tuple[str, ...],
    ) -> None:
        if rows.columns:
            check_columns(columns, rows.columns, f"hf:{rows.name}")
            split.check(rows.columns, f"hf:{rows.name}")
        self.made, self.columns, self.rows, self.out = made, columns, rows, out
        self.split, self.require = split, require

    def described(self) -> dict[str, Any]:
        return {**describe(self.made), "require": self.require}

    def jobs(self) -> list[Job]:
        return self.rows.jobs([dict(self.columns), repr(self.split)])

    def run(self, job: Job) -> ShardResult:
        damage: list[Damage] = []
        folder = self.rows.name if Path(self.rows.name).is_dir() else "."
        reader = RowReader.of(self.columns, self.made, self.split, folder, f"hf:{self.rows.name}")
        samples = reader.samples(self._named(job), damage)
        result = write_samples(samples, self.made, self.out, job, self.require)
        num_seen = (result.num_seen or 0) + len(damage)
        return replace(result, damage=(*result.damage, *damage), num_seen=num_seen)

    def _named(self, job: Job) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Rows with the names of classes for their ids, but for modalities of numbers."""
        features = self.rows.dataset.features or {}
        named = {
            self.columns[m.name]: features[self.columns[m.name]].int2str
            for m in self.made
            if hasattr(features.get(self.columns[m.name]), "int2str")
            and not isinstance(m.raw, Numbers)
        }
        for name, row in self.rows.rows(job):
            if not features:
                check_columns(self.columns, list(row), f"hf:{self.rows.name}")
            told = {c: f(row[c]) for c, f in named.items() if row[c] is not None and row[c] >= 0}
            yield name, {**row, **told}


def open_dataset(name: str, split: str) -> Any:
    """A dataset from disk, or streamed from the hub. Raises UserError that says what is missing."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
        from datasets.exceptions import DatasetNotFoundError  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(f"hf:{name} needs datasets: pip install datasets") from None
    try:
        folder = Path(name)
        if folder.is_dir() and any(
            (folder / mark).is_file() for mark in ("state.json", "dataset_dict.json")
        ):
            loaded = datasets.load_from_disk(name)
            return loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(name, split=split, streaming=not folder.exists())
    except (OSError, ValueError, KeyError, DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"dataset hf:{name}:{split} cannot be opened: {reason}") from None


def _undecoded(dataset: Any) -> Any:
    from datasets import Audio, Image  # pyright: ignore[reportMissingImports]

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, (Image, Audio)):
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        return None
    if value.get("bytes"):
        return value["bytes"]
    path = value.get("path")
    return Path(path).read_bytes() if path and Path(path).is_file() else None
