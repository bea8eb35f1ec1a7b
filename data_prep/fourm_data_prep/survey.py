"""What a folder of raw or token shards holds: counts, the spread of numbers, shares of classes,
what is odd, which modalities samples have.

Every sample is read once, shard by shard; of it remain extremes, counts and a bounded number of
numbers (``fourm.raw.Spread``), and 16 bytes that tell it from others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm.codecs import Codec, CodecSet
from fourm.data.chunks import chunk_folders
from fourm.data.columns import TOKENIZER_FILE, open_chunks
from fourm.data.opening import decoder_of
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw import Spread, Tally
from fourm_data_prep.presence import Combinations, combinations
from fourm_data_prep.remarks import Remarks, said_of_ids
from fourm_data_prep.shard_steps import splits_of

PERCENTILES = (1.0, 50.0, 99.0)
_BLOCK = 256  # samples whose ids are counted at once


@dataclass
class Found:
    """What one modality of one split was found to hold."""

    split: str
    modality: str
    shards: int = 0
    samples: int = 0
    damaged: int = 0
    megabytes: float = 0.0
    spreads: dict[str, Spread] = field(default_factory=dict)  # of its numbers, by name
    tally: Tally = field(default_factory=Tally)  # of its classes, labels, words
    remarks: Remarks = field(default_factory=Remarks)
    ids_used: int = 0  # of token shards: distinct ids
    perplexity: float = 0.0  # of token shards: ids that would be as many if all were as frequent

    def add(self, name: str, numbers: np.ndarray, key: str) -> None:
        """Numbers of one sample."""
        self.spreads.setdefault(name, Spread()).add(numbers, key)

    def to_json(self) -> dict[str, Any]:
        """Plain mappings."""
        seen = self.remarks.to_json().get(self.modality, {"remarks": {}})
        told: dict[str, Any] = {
            "shards": self.shards,
            "samples": self.samples,
            "damaged": self.damaged,
            "megabytes": round(self.megabytes, 3),
            "numbers": {name: _told(spread) for name, spread in self.spreads.items()},
            "shares": self.tally.shares(),
            "remarks": {
                words: {"samples": num, "first": first}
                for words, (num, first) in seen["remarks"].items()
            },
        }
        if self.ids_used:
            told |= {"ids_used": self.ids_used, "perplexity": self.perplexity}
        return told


def _told(spread: Spread) -> dict[str, Any]:
    percentiles = zip(PERCENTILES, spread.percentiles(PERCENTILES), strict=True)
    return {
        "min": spread.low,
        "min_at": spread.low_key,
        **{f"p{percent:g}": value for percent, value in percentiles},
        "max": spread.high,
        "max_at": spread.high_key,
        "mean": spread.mean,
        "count": spread.num_values,
    }


@dataclass
class Survey:
    """All modalities of all splits of a folder."""

    folder: Path
    found: list[Found] = field(default_factory=list)
    together: dict[str, Combinations] = field(default_factory=dict)  # of each split
    damage: DamageReport = field(default_factory=DamageReport)

    def to_json(self) -> dict[str, Any]:
        """Plain mappings: splits, in them modalities and how many samples have which of them."""
        splits: dict[str, Any] = {}
        for split, held in self.together.items():
            mine = [found for found in self.found if found.split == split]
            splits[split] = {
                "modalities": {found.modality: found.to_json() for found in mine},
                "presence": [[list(names), number] for names, number in held.counts],
            }
        return {"folder": str(self.folder), "splits": splits}


def survey(folder: Path, modalities: ModalitySet, tokenizers: Path | None = None) -> Survey:
    """Read every sample under a folder of raw or token shards.

    Args:
        tokenizers: where text tokenizers lie, so that of raw sequences it can be told what is lost
            when they become tokens; None = not told.

    Raises UserError if there is nothing.
    """
    if not folder.is_dir():
        raise UserError(f"no folder of shards {folder}")
    result = Survey(folder)
    codecs = None if tokenizers is None else CodecSet(modalities, tokenizers)
    for split in splits_of(folder):
        names: dict[str, Iterator[str]] = {}
        for m in modalities:
            found = Found(split, m.name)
            if is_tokens(folder, split, m.name):
                names[m.name] = _tokens(folder, m, found, result.damage)
            elif not m.source and shard_paths(folder, split, m.name):
                told = codecs is not None and m.kind == "sequence" and m.tokenizer is not None
                codec = codecs[m.name] if codecs is not None and told else None
                names[m.name] = _values(folder, m, found, result.damage, codec)
            else:
                continue
            result.found.append(found)
        result.together[split] = combinations(names)  # reads them, one modality after another
    if not result.found:
        raise UserError(f"no shards under {folder} for {', '.join(m.name for m in modalities)}")
    return result


def is_tokens(folder: Path, split: str, name: str) -> bool:
    """True where the shards of a modality are tokens."""
    noted = (folder / split / name / TOKENIZER_FILE).is_file()
    return noted or bool(chunk_folders(folder, split, name))


def _values(
    folder: Path, m: Modality, found: Found, damage: DamageReport, codec: Codec | None
) -> Iterator[str]:
    """Names of the samples of raw shards; what they hold goes into ``found``."""
    report = DamageReport()
    for shard in shard_paths(folder, found.split, m.name):
        found.shards, found.megabytes = found.shards + 1, found.megabytes + _megabytes(shard)
        for key, value in read_shard(shard, m.raw.read, m.raw.extensions, report):
            name = f"{shard.stem}/{key}"
            said = [m.raw.remark(value)]
            for what, numbers in m.raw.measured(value).items():
                found.add(what, numbers, name)
            found.tally.add(m.raw.counted(value), name)
            if codec is not None:
                (ids,) = codec.encode([value])
                found.add("tokens", np.array([len(ids)]), name)
                said += said_of_ids(m, ids)
            found.remarks.see(m.name, name, said)
            found.samples += 1
            yield name
    found.damaged = len(report.entries)
    damage.merge(report)


def _tokens(folder: Path, m: Modality, found: Found, damage: DamageReport) -> Iterator[str]:
    """Names of the samples of token shards; what they hold goes into ``found``."""
    report = DamageReport()
    counts, block = np.zeros(m.vocab_size, np.int64), list[np.ndarray]()
    for name, ids in _token_samples(folder, m, found, report):
        found.add("tokens", np.array([len(ids)]), name)
        found.remarks.see(m.name, name, said_of_ids(m, ids))
        found.samples += 1
        block.append(ids)
        if len(block) == _BLOCK:
            counts += np.bincount(np.concatenate(block), minlength=len(counts))
            block.clear()
        yield name
    if block:
        counts += np.bincount(np.concatenate(block), minlength=len(counts))
    used = counts[counts > 0]
    share = used / max(used.sum(), 1)
    found.ids_used, found.perplexity = len(used), math.exp(-float((share * np.log(share)).sum()))
    found.damaged = len(report.entries)
    damage.merge(report)


def _token_samples(
    folder: Path, m: Modality, found: Found, report: DamageReport
) -> Iterator[tuple[str, np.ndarray]]:
    chunks = chunk_folders(folder, found.split, m.name)
    files = [file for chunk in chunks for file in chunk.iterdir()]
    shards = [] if chunks else shard_paths(folder, found.split, m.name)
    found.shards = len(chunks) or len(shards)
    found.megabytes = sum(map(_megabytes, files or shards))
    if chunks:
        yield from open_chunks(folder, found.split, m.name).samples()
    for shard in shards:
        for key, ids in read_shard(shard, decoder_of(m), ("npy",), report):
            yield f"{shard.stem}/{key}", ids


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6
