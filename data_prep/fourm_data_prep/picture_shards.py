"""Pictures that were found -> shards of every modality that is made of them: what all imports, from
folders, tars and datasets, have in common.

Each picture is decoded once. One that cannot be read is left out and reported. A shard is a pure
function of its pictures.
"""

from __future__ import annotations

import os
import zlib
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
from fourm_data_prep.engine import Before, Job, ShardResult, fingerprint
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples

SHARD_PICTURES = 256
_SMALLEST = 8  # pixels of a side
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Item:
    """One picture to import."""

    key: str
    path: Path
    caption: str
    # pictures of one group (one subject in several styles, say) go to the same split
    group: str = ""


def plain_key(name: str) -> str:
    """A name as a key: without what divides names in shards, and of any bytes valid UTF-8."""
    text = os.fsencode(name).decode("utf-8", errors="backslashreplace").replace("\\", "_")
    return text.replace("/", "-").replace(".", "_").replace(" ", "_")


def is_validation(key: str) -> bool:
    """About a tenth of all names, always the same ones."""
    return zlib.crc32(key.encode()) / 2**32 < _VALIDATION_SHARE


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
    """Decode each picture once and write all modalities that are made of it, but for those that an
    earlier import has made of the same pictures with the same settings.
    """
    size = max(max(m.raw.pixels, m.labeller_size) for m in made)
    widest = max(m.raw.pixels for m in made)
    outputs = {m.name: str(shard_path("", job.split, m.name, job.number)) for m in made}
    seen = [job.inputs, size, widest]
    made_from = {outputs[m.name]: fingerprint([*seen, describe([m])]) for m in made}
    before = Before.of(out, "import", job)
    lacking = [m for m in made if not before.has(outputs[m.name], made_from[outputs[m.name]])]
    if not lacking:
        return ShardResult(tuple(outputs.values()), before.num_samples, before.damage, made_from)
    samples, damage = _decoded(found, size)
    for m in lacking:
        members = (
            (key, m.raw.extensions[0], m.raw.write(value))
            for key, value in zip(samples.keys, _values(m, samples, widest), strict=True)
        )
        write_shard(out / outputs[m.name], members)
    return ShardResult(tuple(outputs.values()), len(samples.keys), tuple(damage), made_from)


def _decoded(found: Iterable[tuple[Item, Path | bytes]], size: int) -> tuple[Samples, list[Damage]]:
    """What can be read, as squares of ``size`` pixels, and what cannot with the reason."""
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
    return Samples(pictures, captions, alphas, keys), damage


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
