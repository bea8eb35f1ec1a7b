"""Look at a folder of raw or token shards: counts, sizes, numbers, classes, damage, and a page of
samples with all their modalities.

fourm inspect FOLDER --config MODALITIES.yaml [--out FOLDER/inspect.html] [--json FILE]
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from fourm.data.ranges import settle_ranges
from fourm.data.raw_sets import load_raw
from fourm.data.shards import DamageReport, read_shard, shard_paths, write_json_atomic
from fourm.files.formats import FORMAT
from fourm.modalities import ModalitySet
from fourm.raw import Raw
from fourm.report import Gallery, Report
from fourm_data_prep.presence import MOST_COMBINATIONS
from fourm_data_prep.shard_steps import MANIFESTS, splits_of
from fourm_data_prep.survey import PERCENTILES, Survey, is_tokens, survey

_SHOWN = 24
_NAMES_SHOWN = 40  # classes of a modality on the page; JSON has all


def inspect(
    folder: Path,
    config: Path,
    out: Path,
    tokenizers: Path | None = None,
    json_out: Path | None = None,
) -> Survey:
    """Write the page (and the figures as JSON) and return what was found.

    A ``range: auto`` of raw modalities is measured first.
    """
    modalities = load_raw(config)
    if folder.is_dir() and not _holds_tokens(folder, modalities):
        for line in settle_ranges(config, folder):
            print(line, flush=True)
        modalities = load_raw(config)
    found = survey(folder, modalities, tokenizers)
    if json_out is not None:
        write_json_atomic(json_out, {"format": FORMAT, **found.to_json()})
    _page(found, modalities).write(out)
    return found


def _holds_tokens(folder: Path, modalities: ModalitySet) -> bool:
    return any(is_tokens(folder, split, m.name) for split in splits_of(folder) for m in modalities)


def _page(found: Survey, modalities: ModalitySet) -> Report:
    report = Report(f"Data: {found.folder.name}", str(found.folder))
    report.modalities(modalities)
    report.heading("Counts")
    columns = ["split", "modality", "shards", "samples", "damaged", "MB"]
    report.table(
        columns,
        [
            [*map(str, (c.split, c.modality, c.shards, c.samples, c.damaged)), f"{c.megabytes:.1f}"]
            for c in found.found
        ],
    )
    _add_remarks(report, found)
    _add_numbers(report, found)
    _add_shares(report, found)
    for split, held in found.together.items():
        report.heading(f"Samples of {split}", "by the modalities that they have")
        rows = [[html.escape(", ".join(names)), f"{num:,}"] for names, num in held.counts]
        report.table(["modalities", "samples"], rows[:MOST_COMBINATIONS])
    seconds = _seconds(found.folder)
    if seconds:
        report.heading("Steps", "from the completion manifests")
        report.table(["step", "shards", "samples", "skipped", "seconds"], seconds)
    _add_damage(report, found.damage)
    first = found.found[0].split
    gallery = _gallery(found.folder, first, modalities)
    if gallery.rows:
        report.heading("Samples", f"the first of {first}")
        report.gallery(gallery)
    return report


def _add_remarks(report: Report, found: Survey) -> None:
    lines = [[f.split, html.escape(line)] for f in found.found for line in f.remarks.lines()]
    if lines:
        report.heading("Odd", "put up with; what is surely wrong is damage")
        report.table(["split", "what"], lines)


def _add_numbers(report: Report, found: Survey) -> None:
    """A line for each kind of number, with a sample for each extreme."""
    rows = []
    for f in found.found:
        for name, spread in f.spreads.items():
            shown = [f"{value:.4g}" for value in spread.percentiles(PERCENTILES)]
            ends = [
                f"{value:.4g} <span class=note>{html.escape(key)}</span>"
                for value, key in ((spread.low, spread.low_key), (spread.high, spread.high_key))
            ]
            where = [f.split, f.modality, html.escape(name)]
            rows.append([*where, ends[0], *shown, ends[1], f"{spread.mean:.4g}"])
    if rows:
        report.heading("Numbers", "in raw units; with samples of the extremes")
        percent = [f"{percent:g} %" for percent in PERCENTILES]
        report.table(["split", "modality", "of", "least", *percent, "most", "mean"], rows)


def _add_shares(report: Report, found: Survey) -> None:
    """Classes and labels, the most frequent first."""
    for f in found.found:
        shares = f.tally.shares()
        if shares:
            note = f"{len(shares):,} in all; with a sample of each"
            report.heading(f"Shares: {f.modality} of {f.split}", note)
            report.table(
                ["name", "share", "sample"],
                [
                    [html.escape(name), f"{share:.2%}", html.escape(f.tally.examples[name])]
                    for name, share in list(shares.items())[:_NAMES_SHOWN]
                ],
            )
    used = [
        [f.split, f.modality, f"{f.ids_used:,}", f"{f.perplexity:,.1f}"]
        for f in found.found
        if f.ids_used
    ]
    if used:
        report.heading("Use of ids", "perplexity: so many, if all were as frequent")
        report.table(["split", "modality", "ids used", "perplexity"], used)


def _add_damage(report: Report, damage: DamageReport) -> None:
    if not damage.entries:
        return
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


def _gallery(raw: Path, split: str, modalities: ModalitySet) -> Gallery:
    shown = [
        m
        for m in modalities
        if not m.source and shard_paths(raw, split, m.name) and not is_tokens(raw, split, m.name)
    ]
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
