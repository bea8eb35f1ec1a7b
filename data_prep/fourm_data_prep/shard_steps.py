"""Steps of data preparation: pure functions of one shard, and manifests of shards that are done.

A manifest holds a hash of the shard's inputs and settings, what was written, what was skipped and
why, and seconds. A step whose shards are several files may also note what each file is made from,
and make again only those for which that has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from fourm.data.shards import Damage, shard_paths, write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.files.json_files import parse_mapping
from fourm_data_prep.remarks import Remarks

MANIFESTS = "manifests"  # folder of the completion manifests beside the outputs
_STAMP_BYTES = 1 << 16
_DAMAGE_KEYS = {f.name for f in fields(Damage)}


@dataclass(frozen=True)
class Job:
    """One shard of one split; ``inputs`` identifies what it is made from."""

    split: str
    number: int
    inputs: str

    @property
    def name(self) -> str:
        """Name of the shard in manifests, ``<split>-<number>``."""
        return f"{self.split}-{self.number:05d}"


@dataclass(frozen=True)
class ShardResult:
    """What a step made of one shard."""

    outputs: tuple[str, ...]  # files, relative to the step's folder
    num_samples: int
    damage: tuple[Damage, ...] = ()
    # of a step that makes several files: file -> fingerprint of all that it is made from
    made_from: Mapping[str, str] = field(default_factory=dict)
    # of a step that tells: samples of each ``<split>`` and of each ``<split>/<modality>``
    counts: Mapping[str, int] = field(default_factory=dict)
    # samples that were looked at, where some are both written and listed as damaged
    num_seen: int | None = None
    remarks: Remarks = field(default_factory=Remarks)


@dataclass(frozen=True)
class Before:
    """What an earlier run of a step, with whatever settings, left of a shard."""

    folder: Path  # that outputs are relative to
    made_from: Mapping[str, str]
    num_samples: int
    damage: tuple[Damage, ...]
    counts: Mapping[str, int]
    remarks: Remarks

    @staticmethod
    def of(folder: Path, step: str, job: Job) -> Before:
        """Read the shard's manifest; nothing is left where it is not there or cut short."""
        manifest = _read(folder / MANIFESTS / step / f"{job.name}.json") or {"skipped": ()}
        return Before(
            folder,
            manifest.get("made_from", {}),
            manifest.get("samples", 0),
            tuple(Damage(**entry) for entry in manifest["skipped"]),
            counts_of(manifest),
            Remarks.from_json(manifest.get("remarks", {})),
        )

    def has(self, output: str, made_from: str) -> bool:
        """True if a file is there and would be the same if it were made again."""
        return self.made_from.get(output) == made_from and (self.folder / output).is_file()

    def remove_others(self, outputs: Iterable[str], modalities: Iterable[str]) -> None:
        """Remove what the earlier run wrote of some modalities besides these files: of splits in
        which the shard has no sample now.
        """
        names = set(modalities)
        for output in set(self.made_from).difference(outputs):
            if Path(output).parts[1] in names:
                (self.folder / output).unlink(missing_ok=True)


class ShardStep(Protocol):
    """A step of data preparation.

    It is sent to workers, so it holds settings only and opens what it needs there.
    """

    @property
    def name(self) -> str:
        """Name of the step in manifests."""
        ...

    @property
    def out(self) -> Path:
        """Folder that outputs are relative to."""
        ...

    def described(self) -> dict[str, Any]:
        """Settings that change the result, for the manifests."""
        ...

    def jobs(self) -> list[Job]:
        """All shards, in order."""
        ...

    def run(self, job: Job) -> ShardResult:
        """Make one shard: under temporary names, then renamed."""
        ...


def splits_of(folder: Path) -> list[str]:
    """Splits that lie under a folder of shards."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name != MANIFESTS
    )


def jobs_of(folder: Path, modality: str) -> list[Job]:
    """A job for each shard of one modality, in order."""
    paths = [
        (split, path)
        for split in splits_of(folder)
        for path in shard_paths(folder, split, modality)
    ]
    return [Job(split, int(path.stem), fingerprint(stamp(path))) for split, path in paths]


def manifest_path(step: ShardStep, job: Job) -> Path:
    """Where a step notes that a shard is done."""
    return step.out / MANIFESTS / step.name / f"{job.name}.json"


def stamp(path: Path) -> list[Any]:
    """What tells a file from another version of it: name, size, and a hash of its first and last 64
    KiB.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read(_STAMP_BYTES))
        stream.seek(max(0, size - _STAMP_BYTES))
        digest.update(stream.read(_STAMP_BYTES))
    return [path.name, size, digest.hexdigest()[:16]]


def fingerprint(described: Any) -> str:
    """What tells settings or inputs from others: 16 hexadecimal digits of their JSON."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


def finished(step: ShardStep, job: Job) -> dict[str, Any] | None:
    """The manifest of a shard that is done with these inputs and settings and whose files are
    there, or None.
    """
    manifest = _read(manifest_path(step, job))
    if manifest is None:
        return None
    same = manifest.get("inputs") == job.inputs and manifest.get("settings") == fingerprint(
        step.described()
    )
    return (
        manifest
        if same and all(os.path.isfile(step.out / name) for name in manifest["outputs"])
        else None
    )


def _read(path: Path) -> dict[str, Any] | None:
    """A manifest, or None if it is not there or was cut short by a crash."""
    if not path.is_file():
        return None
    try:
        manifest = parse_mapping(path.read_bytes(), path)
    except UserError:
        return None
    check_format(manifest, path)
    return manifest if _is_whole(manifest) else None


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """False for one that something else than this software has changed."""
    outputs, skipped = manifest.get("outputs"), manifest.get("skipped")
    mappings = (manifest.get(name, {}) for name in ("counts", "made_from", "remarks"))
    return (
        isinstance(outputs, list)
        and all(isinstance(name, str) for name in outputs)
        and isinstance(skipped, list)
        and all(isinstance(one, dict) and set(one) == _DAMAGE_KEYS for one in skipped)
        and isinstance(manifest.get("samples", 0), int)
        and all(isinstance(mapping, dict) for mapping in mappings)
    )


def counts_of(manifest: Mapping[str, Any]) -> Mapping[str, int]:
    """Samples of splits and modalities that a manifest tells of; in manifests of releases up to
    0.7 all files of a shard have all its samples.
    """
    if "counts" in manifest:
        return manifest["counts"]
    places = [Path(output).parts[:2] for output in manifest.get("outputs", ())]
    num: int = manifest.get("samples", 0)
    return {name: num for place in places for name in (place[0], "/".join(place))}


def run_job(step: ShardStep, job: Job) -> dict[str, Any]:
    """Make one shard and its manifest."""
    started = time.perf_counter()
    result = step.run(job)
    manifest = {
        "format": FORMAT,
        "inputs": job.inputs,
        "settings": fingerprint(step.described()),
        "outputs": list(result.outputs),
        "samples": result.num_samples,
        "skipped": [asdict(entry) for entry in result.damage],
        "seconds": round(time.perf_counter() - started, 3),
    }
    if result.remarks.num_seen:
        manifest["remarks"] = result.remarks.to_json()
    if result.made_from:
        manifest["made_from"] = dict(result.made_from)
    if result.counts:
        manifest["counts"] = dict(result.counts)
    if result.num_seen is not None:
        manifest["seen"] = result.num_seen
    write_json_atomic(manifest_path(step, job), manifest)
    return manifest
