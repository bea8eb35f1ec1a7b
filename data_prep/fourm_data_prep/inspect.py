"""Look at a folder of raw shards: counts, sizes, damage, and a page of samples with all their
modalities.

fourm inspect RAW --config MODALITIES.yaml [--out RAW/inspect.html]
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw import Raw
from fourm.report import Gallery, Report
from fourm_data_prep.engine import MANIFESTS, splits_of
from fourm_data_prep.presence import MOST_COMBINATIONS, Combinations, combinations

_SHOWN = 24


@dataclass(frozen=True)
class Count:
    """One modality of one split."""

    split: str
    modality: str
    shards: int
    samples: int
    damaged: int
    megabytes: float


def count_shards(
    raw: Path, modalities: ModalitySet
) -> tuple[list[Count], dict[str, Combinations], DamageReport]:
    """Read every sample of every raw modality: counts, what is together in each split, damage.

    Raises UserError if there is nothing under ``raw``.
    """
    if not raw.is_dir():
        raise UserError(f"no folder of raw shards {raw}")
    counts: list[Count] = []
    total = DamageReport()
    together: dict[str, Combinations] = {}
    for split in splits_of(raw):
        names: dict[str, list[str]] = {}
        for m in modalities:
            shards = shard_paths(raw, split, m.name)
            if m.source or not shards:
                continue
            report = DamageReport()
            names[m.name] = [
                f"{shard.stem}/{key}"
                for shard in shards
                for key, _ in read_shard(shard, m.raw.read, m.raw.extensions, report)
            ]
            samples = len(names[m.name])
            size = sum(path.stat().st_size for path in shards) / 1e6
            counts.append(Count(split, m.name, len(shards), samples, len(report.entries), size))
            total.merge(report)
        together[split] = combinations(names)
    if not counts:
        raise UserError(f"no shards under {raw} for {', '.join(m.name for m in modalities)}")
    return counts, together, total


def inspect(raw: Path, config: Path, out: Path) -> tuple[list[Count], dict[str, Combinations]]:
    """Write the page and return the counts, and which modalities samples have in each split."""
    modalities = ModalitySet.load(config)
    counts, together, damage = count_shards(raw, modalities)
    report = Report(f"Data: {raw.name}", str(raw))
    report.modalities(modalities)
    report.heading("Counts")
    columns = ["split", "modality", "shards", "samples", "damaged", "MB"]
    report.table(
        columns,
        [
            [*map(str, (c.split, c.modality, c.shards, c.samples, c.damaged)), f"{c.megabytes:.1f}"]
            for c in counts
        ],
    )
    for split, found in together.items():
        report.heading(f"Samples of {split}", "by the modalities that they have")
        rows = [[html.escape(", ".join(held)), f"{num:,}"] for held, num in found.counts]
        report.table(["modalities", "samples"], rows[:MOST_COMBINATIONS])
    seconds = _seconds(raw)
    if seconds:
        report.heading("Steps", "from the completion manifests")
        report.table(["step", "shards", "samples", "skipped", "seconds"], seconds)
    if damage.entries:
        num_members = len(damage.entries) - len(damage.shards)
        report.heading(
            "Damage",
            f"{num_members} members of {damage.num_seen} cannot be read, {len(damage.shards)}"
            " shards not to their end",
        )
        shown = [
            [html.escape(text) for text in (e.shard, e.key, e.reason)] for e in damage.entries[:200]
        ]
        report.table(["shard", "key", "reason"], shown)
    first = counts[0].split
    report.heading("Samples", f"the first of {first}")
    report.gallery(_gallery(raw, first, modalities))
    report.write(out)
    return counts, together


def _gallery(raw: Path, split: str, modalities: ModalitySet) -> Gallery:
    shown = [m for m in modalities if not m.source and shard_paths(raw, split, m.name)]
    values: dict[str, dict[str, tuple[Any, Raw]]] = {}
    for m in shown:
        first = shard_paths(raw, split, m.name)[0]
        for key, value in read_shard(first, m.raw.read, m.raw.extensions, DamageReport()):
            if m is shown[0] and len(values) < _SHOWN:
                values[key] = {}
            if key in values:
                values[key][m.name] = (value, m.raw)
            elif all(m.name in held for held in values.values()):
                break
    rows: list[list[Any]] = [
        [key, *(held.get(m.name, "missing") for m in shown)]
        for key, held in list(values.items())[:_SHOWN]
    ]
    return Gallery("samples", ["key", *(m.name for m in shown)], rows)


def _seconds(raw: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    for step in sorted((raw / MANIFESTS).glob("*")):
        manifests = [json.loads(path.read_text()) for path in sorted(step.glob("*.json"))]
        rows.append(
            [
                step.name,
                str(len(manifests)),
                str(sum(m["samples"] for m in manifests)),
                str(sum(len(m["skipped"]) for m in manifests)),
                f"{sum(m['seconds'] for m in manifests):.1f}",
            ]
        )
    return rows
