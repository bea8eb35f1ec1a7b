"""Pictures that were found -> shards of every modality that is made of them: what all imports, from
folders, tars and datasets, have in common.

Each picture is decoded once. One that cannot be read is left out and reported. A shard is a pure
function of its pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fourm.config import to_mapping
from fourm.data.pictures import alpha_of, fit_picture, open_picture, to_rgb
from fourm.data.shards import Damage, shard_path, write_shard
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from fourm_data_prep.shard_steps import Before, Job, ShardResult, fingerprint
from fourm_data_prep.splits import TRAIN

PICTURE_KINDS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
SHARD_PICTURES = 256
_SMALLEST = 8  # pixels of a side


@dataclass(frozen=True)
class Item:
    """One picture to import."""

    key: str
    path: Path
    caption: str
    # pictures of one group (one subject in several styles, say) go to the same split
    group: str = ""
    split: str = TRAIN


def plain_key(name: str) -> str:
    """A name as a key: without what divides names in shards, and of any bytes valid UTF-8."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace").replace("\\", "_")
    return text.replace("/", "-").replace(".", "_").replace(" ", "_")


def describe(made: list[Modality]) -> dict[str, Any]:
    """The settings of modalities that their raw shards depend on, by name."""
    return {
        m.name: {
            "raw": to_mapping(m.raw.data_form),
            "labeller": m.labeller,
            "labeller_size": m.labeller_size,
        }
        for m in made
    }


def write_pictures(
    found: Iterable[tuple[Item, Path | bytes]], made: list[Modality], out: Path, job: Job
) -> ShardResult:
    """Decode each picture once and write all modalities that are made of it, one file of each
    split that has any, but for those that an earlier import has made of the same pictures with the
    same settings.
    """
    size = max(max(m.raw.pixels, m.labeller_size) for m in made)
    widest = max(m.raw.pixels for m in made)
    seen = [job.inputs, size, widest]
    made_from = {m.name: fingerprint([*seen, describe([m])]) for m in made}
    before = Before.of(out, "import", job)
    kept = {m.name: _written(before, m.name, made_from[m.name]) for m in made}
    lacking = [m for m in made if not kept[m.name]]
    outputs = {output: made_from[name] for name, written in kept.items() for output in written}
    if not lacking:
        return ShardResult(
            tuple(outputs), before.num_samples, before.damage, outputs, before.counts
        )
    samples, splits, damage = _decoded(found, size)
    counts: Counter[str] = Counter(splits)
    for m in lacking:
        values = _values(m, samples, widest)
        for split in dict.fromkeys(splits):
            members = (
                (key, m.raw.extensions[0], m.raw.write(value))
                for key, of, value in zip(samples.keys, splits, values, strict=True)
                if of == split
            )
            output = str(shard_path("", split, m.name, job.number))
            write_shard(out / output, members)
            outputs[output] = made_from[m.name]
    for output in outputs:
        split, name = Path(output).parts[:2]
        counts[f"{split}/{name}"] = counts[split]
    before.remove_others(outputs, [m.name for m in made])
    return ShardResult(tuple(outputs), len(samples.keys), tuple(damage), outputs, counts)


def _written(before: Before, modality: str, made_from: str) -> list[str]:
    """Files of a modality that an earlier run made of the same; none if one of them is gone."""
    files = [output for output in before.made_from if Path(output).parts[1] == modality]
    return files if all(before.has(output, made_from) for output in files) else []


def _decoded(
    found: Iterable[tuple[Item, Path | bytes]], size: int
) -> tuple[Samples, list[str], list[Damage]]:
    """What can be read, as squares of ``size`` pixels, with its splits, and what cannot with the
    reason.
    """
    kept: list[Item] = []
    pictures: list[np.ndarray] = []
    alphas: list[np.ndarray | None] = []
    damage: list[Damage] = []
    seen: set[str] = set()
    for item, source in found:
        if item.key in seen:
            damage.append(Damage(str(item.path), item.key, "key appears twice"))
            continue
        seen.add(item.key)
        try:
            picture = open_picture(source if isinstance(source, bytes) else source.read_bytes())
            if min(picture.size) < _SMALLEST:
                raise UserError(
                    f"picture of {picture.width} x {picture.height} pixels is too small"
                )
            alpha = alpha_of(picture)
            pictures.append(np.asarray(fit_picture(to_rgb(picture), size)))
            alphas.append(None if alpha is None else np.asarray(fit_picture(alpha, size)))
            kept.append(item)
        except (ValueError, OSError) as error:  # converting a strange picture fails in Pillow
            damage.append(Damage(str(item.path), item.key, str(error)))
    captions, keys = [item.caption for item in kept], [item.key for item in kept]
    return Samples(pictures, captions, alphas, keys), [item.split for item in kept], damage


def _values(m: Modality, samples: Samples, widest: int) -> list[Any]:
    """Values of one modality, picture-like ones at its own size."""
    if isinstance(m.raw, Text) and not m.labeller:
        return list(samples.captions)
    if not m.labeller or not samples.keys:
        return [m.raw.fit(picture) for picture in samples.pictures]
    values = open_labeller(m.labeller)(_resized(samples, m.labeller_size or widest), m.raw)
    return [m.raw.fit(value) for value in values]


def _resized(samples: Samples, size: int) -> Samples:
    if samples.pictures[0].shape[0] == size:
        return samples
    seen = Image(size=size)
    alphas = [None if a is None else seen.fit(a) for a in samples.alphas]
    return replace(samples, pictures=[seen.fit(p) for p in samples.pictures], alphas=alphas)
