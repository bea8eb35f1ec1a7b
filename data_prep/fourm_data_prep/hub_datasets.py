"""Hugging Face datasets as a source of pictures: ``fourm import hf:NAME[:SPLIT]``, on disk or
streamed from the hub.

``NAME`` is a folder that ``save_to_disk`` wrote, a local folder or file that ``datasets`` reads
(Parquet, an image folder, webdataset), or a hub id, e.g. CC12M's copy
``hf:pixparse/cc12m-wds:train``. What is on disk is cut into ranges of rows; what is streamed into
the dataset's own files, each of them one shard. Pictures are taken undecoded, so that the import's
own guards see their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm_data_prep.engine import Job, ShardResult, fingerprint
from fourm_data_prep.picture_shards import (
    SHARD_PICTURES,
    Item,
    describe,
    is_validation,
    plain_key,
    write_pictures,
)
from fourm_data_prep.tables import CAPTION_COLUMNS, find_column, one_caption

_PICTURE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "picture", "img")
_KEY_COLUMNS = ("__key__", "key", "image_id", "id")


class ImportDatasetStep:
    """Rows of a dataset -> raw shards; a job is a range of rows (on disk) or a file (streamed), for
    each of our two splits.
    """

    name = "import"

    def __init__(self, made: list[Modality], source: str, out: Path) -> None:
        name, colon, split = source.rpartition(":")
        self.source, self.split = (
            (name, split) if colon and not Path(source).exists() else (source, "train")
        )
        self.made, self.out = made, out
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_opened": None}  # workers open their own

    @property
    def dataset(self) -> Any:
        """The data set, opened where it is first asked for; pictures are left as bytes."""
        if self._opened is None:
            self._opened = _undecoded(open_dataset(self.source, self.split))
        return self._opened

    @property
    def _streamed(self) -> bool:
        return not hasattr(self.dataset, "__len__")

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        if self._streamed:
            num, identity = self.dataset.num_shards, [self.source, self.split]
        else:
            num, identity = (
                -(-len(self.dataset) // SHARD_PICTURES),
                [self.source, self.split, self.dataset._fingerprint],
            )
        return [
            Job(split, number, fingerprint([*identity, number]))
            for split in ("train", "val")
            for number in range(num)
        ]

    def run(self, job: Job) -> ShardResult:
        damage: list[Damage] = []
        result = write_pictures(self._rows(job, damage), self.made, self.out, job)
        return replace(result, damage=(*result.damage, *damage))

    def _rows(self, job: Job, damage: list[Damage]) -> Iterator[tuple[Item, bytes]]:
        if self._streamed:
            rows: Any = self.dataset.shard(self.dataset.num_shards, job.number)
        else:
            first = job.number * SHARD_PICTURES
            rows = self.dataset.select(range(first, min(first + SHARD_PICTURES, len(self.dataset))))
        names = list(self.dataset.features or {})
        for i, row in enumerate(rows):
            names = names or list(row)
            picture, caption, key = (
                find_column(names, wanted)
                for wanted in (_PICTURE_COLUMNS, CAPTION_COLUMNS, _KEY_COLUMNS)
            )
            if picture is None:
                raise UserError(
                    f"dataset {self.source} has no column {', '.join(_PICTURE_COLUMNS)}; it has"
                    f" {', '.join(names)}"
                )
            label = str(row[key]) if key else f"{job.number:05d}-{i:06d}"
            label = plain_key(label)
            if is_validation(label) != (job.split == "val"):
                continue
            data = _bytes(row[picture])
            text = one_caption(row[caption]) if caption else ""
            if data is None:
                damage.append(Damage(self.source, label, "no picture in this row"))
                continue
            yield Item(label, Path(self.source), " ".join(text.split())), data


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
    from datasets import Image  # pyright: ignore[reportMissingImports]

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
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
