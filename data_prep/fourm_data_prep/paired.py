"""Samples whose modalities exist already -> raw shards.

A part that cannot be read costs itself alone: its sample then lacks that modality, as one that
never had it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage, shard_path, write_shard
from fourm.modalities import Modality
from fourm.raw import Dense
from fourm_data_prep.parts import Part, as_stored, aspect_of
from fourm_data_prep.picture_shards import describe
from fourm_data_prep.shard_steps import Before, Job, ShardResult, fingerprint
from fourm_data_prep.splits import TRAIN

SHARD_SAMPLES = 256
_SAME_ASPECT = 1.02  # sizes are rounded where something was reduced


@dataclass(frozen=True)
class Sample:
    """What there is of a sample, by modality."""

    key: str
    parts: Mapping[str, Part]
    split: str = TRAIN
    origin: str = ""  # the folder, table or data set, for reports


class ImportSamplesStep:
    """Shards of samples that are known in advance, those of each split in their order."""

    name = "import"

    def __init__(
        self, made: list[Modality], samples: Iterable[Sample], out: Path, require: tuple[str, ...]
    ) -> None:
        self.made, self.out, self.require = made, out, require
        self.splits: dict[str, list[Sample]] = {}
        for sample in samples:
            self.splits.setdefault(sample.split, []).append(sample)

    def described(self) -> dict[str, Any]:
        return {**describe(self.made), "require": self.require}

    def _samples(self, split: str, number: int) -> list[Sample]:
        return self.splits[split][number * SHARD_SAMPLES : (number + 1) * SHARD_SAMPLES]

    def jobs(self) -> list[Job]:
        jobs = []
        for split, samples in self.splits.items():
            for number in range(-(-len(samples) // SHARD_SAMPLES)):
                inputs = [
                    [sample.key, {name: part.state() for name, part in sample.parts.items()}]
                    for sample in self._samples(split, number)
                ]
                jobs.append(Job(split, number, fingerprint(inputs)))
        return jobs

    def run(self, job: Job) -> ShardResult:
        samples = self._samples(job.split, job.number)
        return write_samples(samples, self.made, self.out, job, self.require)


def write_samples(
    samples: Iterable[Sample],
    made: list[Modality],
    out: Path,
    job: Job,
    require: tuple[str, ...] = (),
) -> ShardResult:
    """Read all parts and write a tar for each split and modality that has any.

    A sample that lacks one of ``require``, or everything, is left out; counts tell of it under
    ``left out``, under ``oblong`` of samples with places in a picture that is no square, and under
    ``uneven`` of those whose pictures have different shapes.
    """
    members: dict[tuple[str, str], list[tuple[str, str, bytes]]] = {}
    counts: Counter[str] = Counter()
    damage: list[Damage] = []
    num_seen = 0
    # boxes, points: nothing of them is cut with the picture's square
    placed = {m.name for m in made if m.raw.extensions[0] == "json" and not m.raw.placeless}
    for sample in samples:
        num_seen += 1
        stored: dict[str, tuple[str, bytes]] = {}
        aspects: dict[str, float] = {}
        for m in made:
            part = sample.parts.get(m.name)
            if part is None:
                continue
            try:
                data, extension = part.read(m.raw)
                stored[m.name] = as_stored(m.raw, data, extension)
                if isinstance(m.raw, Dense):
                    aspects[m.name] = aspect_of(data, extension)
            except (ValueError, OSError) as error:  # converting a strange picture fails in Pillow
                reason = f"{m.name}: {part.where}: {error}"
                damage.append(Damage(sample.origin, sample.key, reason))
        if not stored or any(name not in stored for name in require):
            counts["left out"] += 1
            continue
        counts[sample.split] += 1
        shapes = sorted(aspects.values())
        counts["uneven"] += len(shapes) > 1 and shapes[-1] > _SAME_ASPECT * shapes[0]
        counts["oblong"] += any(a != 1 for a in shapes) and not placed.isdisjoint(stored)
        for name, (extension, data) in stored.items():
            counts[f"{sample.split}/{name}"] += 1
            members.setdefault((sample.split, name), []).append((sample.key, extension, data))
    outputs = {str(shard_path("", *place, job.number)): held for place, held in members.items()}
    for output, held in outputs.items():
        write_shard(out / output, held)
    Before.of(out, "import", job).remove_others(outputs, [m.name for m in made])
    made_from = dict.fromkeys(outputs, job.inputs)
    num = sum(counts[split] for split, _ in members)
    return ShardResult(tuple(outputs), num, tuple(damage), made_from, counts, num_seen)
