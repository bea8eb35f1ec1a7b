"""Raw shards -> cached latents of a frozen encoder, one shard at a time, packed into one
memory-mapped file.

    fourm latents RAW --config MODALITIES.yaml --modality rgb --encoder efficientnet --out DIR

An encoder is any labeller that makes vectors: ``efficientnet``, ``minilm``, ``features:<network>``,
``sentence:<network>``, ``tokens:<network>``, ``logmel``, ``audio:<network>``, ``fourm:<pipeline
folder>``, or ``package.module:function``. Shards run on the engines of all steps, so a killed run
goes on; packing is one pass over their parts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from fourm.alignment.latents import ABOUT, VECTORS, describe_latents
from fourm.data.shards import DamageReport, read_shard, shard_path, write_json_atomic
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.audio import Audio, resample
from fourm.raw.image import Image
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm_data_prep.engine import Progress, run_step
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint, jobs_of, stamp

_PARTS = "parts"
_CHANNELS = {"efficientnet": 1280, "minilm": 384, "logmel": 40}  # of encoders that ask for them
_AT_ONCE = 64


class LatentStep:
    """One raw shard -> vectors and keys of its samples."""

    def __init__(
        self,
        raw: Path,
        config: Path,
        modality: str,
        encoder: str,
        out: Path,
        tokens: bool,
        half: bool,
        equal_as_one: bool = False,
    ) -> None:
        spec = ModalitySet.load(config)[modality].raw
        if not isinstance(spec, (Image, Text, Audio)):
            raise UserError(
                f"encoders read pictures, text or audio; {modality} is {spec.type_name}"
            )
        open_labeller(encoder)  # a wrong name is told before anything runs
        self.raw, self.modality, self.spec, self.encoder, self.out = (
            raw,
            modality,
            spec,
            encoder,
            out,
        )
        if equal_as_one and not isinstance(spec, Text):
            raise UserError(f"--equal-as-one is for text; {modality} is {spec.type_name}")
        self.tokens, self.half, self.equal_as_one = tokens, half, equal_as_one
        self.name = f"latents-{modality}"

    def described(self) -> dict[str, Any]:
        return self.encoding() | ({"equal_as_one": True} if self.equal_as_one else {})

    def encoding(self) -> dict[str, Any]:
        """What vectors depend on, groups or not."""
        return {
            "encoder": self.encoder,
            "weights": encoder_stamp(self.encoder),
            "tokens": self.tokens,
            "half": self.half,
        }

    def jobs(self) -> list[Job]:
        return jobs_of(self.raw, self.modality)

    def run(self, job: Job) -> ShardResult:
        report = DamageReport()
        source = shard_path(self.raw, job.split, self.modality, job.number)
        found = list(
            read_shard(
                source,
                lambda d, e: self.spec.read(d, e, native=True),
                self.spec.extensions,
                report,
            )
        )
        encode = open_labeller(self.encoder)
        wanted = Vectors(channels=_CHANNELS.get(self.encoder, 1))
        rows: list[np.ndarray] = []
        for start in range(0, len(found), _AT_ONCE):
            values = [value for _, value in found[start : start + _AT_ONCE]]
            keys = [key for key, _ in found[start : start + _AT_ONCE]]
            made = encode(self._samples(values, keys), wanted)
            rows += [np.asarray(r, np.float32).reshape(-1, np.shape(r)[-1]) for r in made]
        kept = []
        for (key, value), row in zip(found, rows, strict=True):
            if not len(row) or not np.isfinite(row).all():
                report.add(source, key, "its latents are empty or not finite")
                continue
            kept.append((key, row if self.tokens else row.mean(0, keepdims=True), value))
        path = self.out / _PARTS / f"{job.name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npz")
        np.savez(
            temporary,
            vectors=np.concatenate([r for _, r, _ in kept] or [np.zeros((0, 1))]).astype(
                np.float16 if self.half else np.float32
            ),
            lengths=np.array([len(r) for _, r, _ in kept], np.int64),
            keys=np.array([k for k, _, _ in kept], dtype=np.str_),
            groups=np.array([self._group(k, v) for k, _, v in kept], dtype=np.str_),
        )
        temporary.replace(path)
        return ShardResult((str(path.relative_to(self.out)),), len(kept), tuple(report.entries))

    def _group(self, key: str, value: Any) -> str:
        """Whose samples are as right as this one: those of the same subject, or text."""
        if self.equal_as_one:
            return hashlib.sha256(value.encode()).hexdigest()[:16]
        return key.partition("~")[0]

    def _samples(self, values: list[Any], keys: list[str]) -> Samples:
        if isinstance(self.spec, Audio):
            given = self.spec.rate
            return Samples(
                [], keys=keys, sounds=lambda rate: [resample(v, given, rate) for v in values]
            )
        is_text = isinstance(self.spec, Text)
        return Samples([] if is_text else values, values if is_text else [], keys=keys)

    def pack(self) -> int:
        """Put the parts of all shards into one file; returns the number of samples."""
        jobs = self.jobs()
        keys: list[str] = []
        places: list[str] = []  # <split>/<shard> of each
        groups: list[str] = []
        lengths: list[np.ndarray] = []
        width = 0
        paths = [self.out / _PARTS / f"{job.name}.npz" for job in jobs]
        for job, path in zip(jobs, paths, strict=True):
            with np.load(path, allow_pickle=False) as part:
                own = part["keys"].tolist()
                keys += own
                places += [f"{job.split}/{job.number:05d}"] * len(own)
                # parts of releases up to 0.8 have none
                groups += (
                    part["groups"].tolist()
                    if "groups" in part
                    else [self._group(key, "") for key in own]
                )
                lengths.append(part["lengths"])
                width = max(width, part["vectors"].shape[1])
        if len(set(keys)) < len(keys):  # keys of shards or splits are the same: unlike samples
            keys = [f"{place}/{key}" for place, key in zip(places, keys, strict=True)]
            if not self.equal_as_one:
                groups = [f"{place}/{g}" for place, g in zip(places, groups, strict=True)]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        dtype = np.float16 if self.half else np.float32
        (self.out / ABOUT).unlink(missing_ok=True)  # not finished until it is there again
        packed = open_memmap(
            self.out / VECTORS, mode="w+", dtype=dtype, shape=(int(offsets[-1]), width)
        )
        start = 0
        for path in paths:
            with np.load(path, allow_pickle=False) as part:
                packed[start : start + len(part["vectors"])] = part["vectors"]
                start += len(part["vectors"])
        packed.flush()
        describe_latents(
            self.out,
            packed,
            keys,
            encoder=self.encoder,
            fingerprint=fingerprint(self.encoding()),
            modality=self.modality,
            groups=groups if groups != keys else None,
            splits=[place.partition("/")[0] for place in places],
            offsets=offsets if self.tokens else None,
        )
        return len(keys)


def encoder_stamp(encoder: str) -> list[Any]:
    """What tells weights of a local encoder from others of the same name."""
    folder = Path(encoder.partition(":")[2] or ".")
    return (
        [stamp(path) for path in sorted(folder.glob("*.safetensors"))]
        if ":" in encoder and folder.is_dir()
        else []
    )


def cache_latents(
    raw: Path,
    config: Path,
    modality: str,
    encoder: str,
    out: Path,
    *,
    tokens: bool = False,
    half: bool = True,
    equal_as_one: bool = False,
    max_damage: float = 0.05,
    engine: EngineConfig | None = None,
) -> Progress:
    """Encode all splits of a modality.

    Raises UserError where there are no shards or too many samples fail.
    """
    if not raw.is_dir():
        raise UserError(f"no folder of raw shards {raw}")
    step = LatentStep(raw, config, modality, encoder, out, tokens, half, equal_as_one)
    if not step.jobs():
        raise UserError(f"no shards of {modality} under {raw}")
    progress = run_step(step, engine or EngineConfig(), max_damage)
    if engine is None or engine.shard_range is None:
        num = step.pack()
        write_json_atomic(out / "done.json", {"samples": num})
    return progress
