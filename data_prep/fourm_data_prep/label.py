"""Add modalities to raw shards that exist: their labellers run over the stored pictures and
captions, one shard at a time.

    fourm label RAW --config MODALITIES.yaml [--only NAME]

Without ``--only``: every modality with a labeller that RAW lacks.

What ``fourm import`` makes at once can so be made later, by another machine, with another network,
or for shards that came from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm_data_prep.engine import Progress, run_step
from fourm_data_prep.engine_local import start_workers
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.picture_shards import describe
from fourm_data_prep.samples import Samples
from fourm_data_prep.shard_steps import Job, ShardResult, jobs_of, splits_of


class LabelStep:
    """Pictures and captions of a shard -> further modalities of the same keys."""

    def __init__(
        self, raw: Path, made: list[Modality], pictures: Modality, captions: Modality | None
    ) -> None:
        self.out, self.made, self.pictures, self.captions = raw, made, pictures, captions
        self.name = "label-" + "-".join(m.name for m in made)

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        return jobs_of(self.out, self.pictures.name)

    def run(self, job: Job) -> ShardResult:
        report = DamageReport()
        pictures = self._read(self.pictures, job, report, native=True)
        captions = self._read(self.captions, job, DamageReport()) if self.captions else {}
        outputs = []
        for m in self.made:
            side = m.labeller_size or max(self.pictures.raw.pixels, m.raw.pixels)
            seen = Image(size=side)
            samples = Samples(
                [seen.fit(p) for p in pictures.values()],
                [captions.get(k, "") for k in pictures],
                keys=list(pictures),
            )
            values = open_labeller(m.labeller)(samples, m.raw) if pictures else []
            fitted = [m.raw.fit(value) for value in values]
            target = shard_path(self.out, job.split, m.name, job.number)
            write_shard(
                target,
                (
                    (key, m.raw.extensions[0], m.raw.write(v))
                    for key, v in zip(pictures, fitted, strict=True)
                ),
            )
            outputs.append(str(target.relative_to(self.out)))
        return ShardResult(tuple(outputs), len(pictures), tuple(report.entries))

    def _read(
        self, m: Modality, job: Job, report: DamageReport, native: bool = False
    ) -> dict[str, Any]:
        path = shard_path(self.out, job.split, m.name, job.number)
        if not path.is_file():
            return {}
        return dict(
            read_shard(path, lambda d, e: m.raw.read(d, e, native), m.raw.extensions, report)
        )


def label(
    raw: Path,
    config: Path,
    only: list[str],
    max_damage: float = 0.05,
    engine: EngineConfig | None = None,
) -> Progress:
    """Label existing shards.

    Raises UserError where nothing is to be made or nothing to make it from.
    """
    if not raw.is_dir():
        raise UserError(f"no folder of raw shards {raw}")
    start_workers(engine or EngineConfig())
    modalities = ModalitySet.load(config)
    for name in only:
        if name not in modalities or not modalities[name].labeller:
            raise UserError(f"{name!r} is no modality of {config} with a labeller")
    made = [m for m in modalities if m.labeller and not m.source and (m.name in only or not only)]
    if not only:
        made = [
            m for m in made if not all((raw / split / m.name).is_dir() for split in splits_of(raw))
        ]
    pictures = next(
        (m for m in modalities if isinstance(m.raw, Image) and not m.labeller and not m.source),
        None,
    )
    captions = next(
        (m for m in modalities if isinstance(m.raw, Text) and not m.labeller and not m.source), None
    )
    if not made or pictures is None:
        raise UserError(
            f"nothing to make: {config} has no modality with a labeller that {raw} lacks, or no"
            " pictures"
        )
    step = LabelStep(raw, made, pictures, captions)
    if not step.jobs():
        raise UserError(f"no shards of {pictures.name} under {raw}")
    return run_step(step, engine or EngineConfig(), max_damage)
