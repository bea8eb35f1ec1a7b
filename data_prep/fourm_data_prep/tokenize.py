"""Raw shards -> token shards, one shard at a time, all modalities of a shard in one go.

    fourm tokenize PROJECT [--only MODALITY] [--crops 4] [--engine local|ray]

Modalities of one source (pictures at two resolutions, say) share its decoding. With ``--crops N``
each picture gives N samples, ``<key>``, ``<key>~1`` and so on: the whole picture and random crops,
the same ones in all modalities; ``crop_settings`` holds (top, left, height, width, mirrored) of
each. Store raw shards larger (``fourm import --size``) so that crops stay sharp.

A shard is a pure function of its raw shard and the tokenizers; it is written under a temporary name
and renamed, so a killed run is simply started again. Where the modality set has changed, only the
modalities that it concerns are made again (``token_identity``). At the end the shards' pieces are
joined into chunks that training maps (``fourm_data_prep.joining``). ``tokenizer.json`` beside them
says who made them.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fourm.cli import door
from fourm.codecs import CodecSet
from fourm.data.chunks import INDEX, PIECES
from fourm.data.columns import TOKENIZER_FILE
from fourm.data.crop_settings import CROP_SETTINGS, CropSettings
from fourm.data.crops import Crop, crops_of, sample_key
from fourm.data.npy import write_npy
from fourm.data.once import recover
from fourm.data.opening import token_dtype
from fourm.data.ranges import settle_ranges
from fourm.data.shards import (
    DamageReport,
    read_shard,
    shard_path,
    shard_paths,
    write_json_atomic,
    write_shard,
)
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet
from fourm_data_prep.engine import run_step
from fourm_data_prep.engine_local import start_workers
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.joining import CHUNK_SHARDS, JoinStep, piece_folder, write_piece
from fourm_data_prep.remarks import Remarks, said_of_ids
from fourm_data_prep.shard_steps import Before, Job, ShardResult, fingerprint, splits_of, stamp
from fourm_data_prep.token_identity import identities, identity

_log = logging.getLogger(__name__)
_ENCODE_SAMPLES = 64
_CROP_MARK = "~"


class TokenizeStep:
    """Tokenizes shards with the codecs of one modality set; each worker opens them once."""

    name = "tokenize"

    def __init__(
        self,
        modalities: ModalitySet,
        raw: Path,
        tokenizers: Path,
        out: Path,
        crops: int = 1,
        flip: bool = False,
        only: Sequence[str] = (),
    ) -> None:
        if crops < 1:
            raise UserError(f"--crops {crops}: at least 1, the whole picture")
        if only and crops > 1:
            raise UserError("--only with --crops: the same crops are cut of all modalities at once")
        self.modalities, self.raw, self.tokenizers, self.out = modalities, raw, tokenizers, out
        self.crops, self.flip = crops, flip
        for m in modalities if crops > 1 else ():
            if not m.raw.can_be_cut:
                raise UserError(
                    f"--crops {crops}: {m.name} is {m.raw.type_name}, of which no part can be cut:"
                    " leave the modality or --crops out"
                )
        for name in only:
            if modalities[name].tokenizer is None:
                raise UserError(f"--only {name}: it has no tokenizer, so there are no tokens of it")
        # whose tokens are made; what else lies there stays as it is
        self.names = [n for n in _tokenized(modalities) if n in only or not only]
        self._fingerprints: dict[str, str] = {}
        self._codecs: CodecSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_codecs": None}  # weights stay here; workers open their own

    @property
    def codecs(self) -> CodecSet:
        """The codecs, opened where they are first asked for."""
        if self._codecs is None:
            self._codecs = CodecSet(self.modalities, self.tokenizers)
        return self._codecs

    def fingerprint_of(self, name: str) -> str:
        """Fingerprint of a modality's codec, computed once."""
        if name not in self._fingerprints:
            self._fingerprints[name] = self.codecs[name].fingerprint
        return self._fingerprints[name]

    def describe(self, name: str) -> dict[str, Any]:
        """What ``tokenizer.json`` says of a modality."""
        m = self.modalities[name]
        size = min(self.codecs[name].codebook_size, m.vocab_size)
        return {
            "fingerprint": self.fingerprint_of(name),
            "vocab_size": size,
            "dtype": token_dtype(m.vocab_size).name,
        }

    def described(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            "modalities": {n: identity(self.modalities[n]) for n in self.names},
            "fingerprints": {n: self.fingerprint_of(n) for n in self.names},
        }
        return described if self.crops == 1 else {**described, "crops": [self.crops, self.flip]}

    def jobs(self) -> list[Job]:
        jobs = []
        for split in splits_of(self.raw):
            numbers: dict[int, list[Any]] = {}
            for name in _tokenized(self.modalities):
                for path in shard_paths(self.raw, split, self.modalities[name].raw_name):
                    if path.stem.isdigit():
                        numbers.setdefault(int(path.stem), []).append([name, stamp(path)])
            jobs += [
                Job(split, number, fingerprint(inputs))
                for number, inputs in sorted(numbers.items())
            ]
        return jobs

    def prepare(self) -> None:
        """Note beside the shards of each modality who makes them, and how pictures are cropped."""
        for split in splits_of(self.raw):
            if self.crops > 1 or (self.out / split / CROP_SETTINGS).is_dir():
                CropSettings(num_crops=self.crops, flip=self.flip).write(self.out / split)
            for name in self.names:
                if shard_paths(self.raw, split, self.modalities[name].raw_name):
                    _prepare_folder(self.out / split / name, self.describe(name))

    def run(self, job: Job) -> ShardResult:
        report = DamageReport()
        before = Before.of(self.out, self.name, job)
        made_from = self._made_from(job)
        places = {Path(output).parts[1]: output for output in before.made_from}
        others = {name: output for name, output in places.items() if name not in self.names}
        kept = {n for n in made_from if n in places and before.has(places[n], made_from[n])}
        if self.crops > 1 and len(kept) < len(made_from):
            kept = set()  # crop_settings are those of all keys
        sources: dict[str, list[str]] = {}
        for name in made_from:
            if name not in kept:
                sources.setdefault(self.modalities[name].raw_name, []).append(name)
        keys: list[str] = []
        remarks = before.remarks.of(sorted({*kept, *others}))
        for raw_name, names in sources.items():
            source = shard_path(self.raw, job.split, raw_name, job.number)
            for name, rows in self._encode(names, source, report, remarks).items():
                folder = piece_folder(self.out, job.split, name, job.number)
                dtype = token_dtype(self.modalities[name].vocab_size)
                write_piece(folder, rows, self.fingerprint_of(name), made_from[name], dtype)
                keys = [key for key, _ in rows] if len(rows) > len(keys) else keys
        made = {
            name: places[name] if name in kept else self._piece(name, job) for name in made_from
        }
        outputs = [*made.values(), *others.values()]
        if self.crops > 1:
            outputs.append(str(shard_path("", job.split, CROP_SETTINGS, job.number)))
            if not kept:
                settings = ((key, "npy", write_npy(self._crop_of(key).settings())) for key in keys)
                write_shard(self.out / outputs[-1], settings)
        read_again = {str(shard_path(self.raw, job.split, s, job.number)) for s in sources}
        damage = [e for e in before.damage if kept and e.shard not in read_again]
        return ShardResult(
            tuple(outputs),
            max(len(keys), before.num_samples if kept else 0),
            (*damage, *report.entries),
            {
                **{made[name]: f for name, f in made_from.items()},
                **{output: before.made_from[output] for output in others.values()},
            },
            remarks=remarks,
        )

    def joining(self, jobs: list[Job], chunk_shards: int) -> JoinStep:
        """The step that joins the pieces of these shards into chunks."""
        modalities = [self.modalities[name] for name in self.names]
        tokenizers = {name: self.fingerprint_of(name) for name in self.names}
        wanted = {job: self._noted(job) or self._made_from(job) for job in jobs}
        wanted = {job: {n: f for n, f in w.items() if n in tokenizers} for job, w in wanted.items()}
        return JoinStep(self, modalities, tokenizers, wanted, chunk_shards)

    def _noted(self, job: Job) -> dict[str, str]:
        """What the modalities of a finished shard were made from, by its manifest; manifests of
        releases up to 0.4 do not tell.
        """
        noted = Before.of(self.out, self.name, job).made_from
        return {Path(output).parts[1]: f for output, f in noted.items()}

    def _piece(self, name: str, job: Job) -> str:
        return str(piece_folder(Path(), job.split, name, job.number) / INDEX)

    def _made_from(self, job: Job) -> dict[str, str]:
        """A fingerprint of everything that the ids of each modality depend on, for those whose raw
        shard is there: the one that is noted, if it says the same.
        """
        found, noted = {}, self._noted(job)
        for name in self.names:
            m = self.modalities[name]
            source = shard_path(self.raw, job.split, m.raw_name, job.number)
            if source.is_file():
                known = identities(
                    m, stamp(source), self.fingerprint_of(name), self.crops, self.flip
                )
                found[name] = noted[name] if noted.get(name) in known else known[0]
        return found

    def _crop_of(self, key: str) -> Crop:
        base, _, number = key.partition(_CROP_MARK)
        return crops_of(base, self.crops, flip=self.flip)[int(number or 0)]

    def _encode(
        self, names: list[str], source: Path, report: DamageReport, remarks: Remarks
    ) -> dict[str, list[tuple[str, np.ndarray]]]:
        """Ids of all modalities of one source, decoded once: the widest of their raw forms, cut
        down for each.
        """
        modalities = [self.modalities[name] for name in names]
        widest = max((m.raw for m in modalities), key=lambda raw: raw.pixels)
        made: dict[str, list[tuple[str, np.ndarray]]] = {name: [] for name in names}
        pending: list[tuple[str, Any]] = []

        def flush() -> None:
            for m in modalities:
                values = [
                    (sample_key(key, i), v) for key, v in pending for i, v in self._crops(key, v, m)
                ]
                made[m.name] += self._ids(m, values, source, report, remarks)
            pending.clear()

        extensions = tuple(dict.fromkeys(e for m in modalities for e in m.raw.extensions))
        decode = partial(widest.read, native=self.crops > 1 or len(names) > 1)
        for item in read_shard(source, decode, extensions, report):
            pending.append(item)
            if len(pending) == _ENCODE_SAMPLES:
                flush()
        flush()
        return made

    def _crops(self, key: str, value: Any, m: Modality) -> list[tuple[int, Any]]:
        if self.crops == 1:
            return [(0, m.raw.fit(value))]
        return [
            (i, m.raw.cut(value, crop))
            for i, crop in enumerate(crops_of(key, self.crops, flip=self.flip))
        ]

    def _ids(
        self,
        m: Modality,
        values: list[tuple[str, Any]],
        source: Path,
        report: DamageReport,
        remarks: Remarks,
    ) -> list[tuple[str, np.ndarray]]:
        codec, dtype = self.codecs[m.name], token_dtype(m.vocab_size)
        try:
            together = [
                ids
                for i in range(0, len(values), _ENCODE_SAMPLES)
                for ids in codec.encode([v for _, v in values[i : i + _ENCODE_SAMPLES]])
            ]
        except ValueError:
            together = None
        result = []
        for i, (key, value) in enumerate(values):
            try:  # a malformed value costs itself, not its neighbours
                ids = codec.encode([value])[0] if together is None else together[i]
            except ValueError as error:
                report.add(source, key, str(error))
                continue
            said = (m.raw.remark(value), *said_of_ids(m, np.asarray(ids)))
            remarks.see(m.name, f"{source.stem}/{key}", said)
            result.append((key, np.asarray(ids).astype(dtype)))
        return result


def tokenize(
    modalities_path: Path,
    raw: Path,
    tokenizers: Path,
    out: Path,
    max_damage: float = 0.05,
    engine: EngineConfig | None = None,
    crops: int = 1,
    flip: bool = False,
    chunk_shards: int = CHUNK_SHARDS,
    only: Sequence[str] = (),
) -> None:
    """Tokenize every split and shard that lies under ``raw``, and join ``chunk_shards`` shards of a
    modality into a chunk; of all modalities, or of ``only`` these.

    Of a range of shards those chunks are joined that lie in it whole; a run without a range joins
    what is left. Raises UserError above ``max_damage`` damaged samples.
    """
    if not raw.is_dir():
        raise UserError(f"no folder of raw shards {raw}")
    start_workers(engine or EngineConfig(), "fourm_tokenizers.picture", "vector_quantize_pytorch")
    for line in settle_ranges(modalities_path, raw):
        print(line, flush=True)
    step = TokenizeStep(ModalitySet.load(modalities_path), raw, tokenizers, out, crops, flip, only)
    jobs = step.jobs()
    if not jobs:
        raise UserError(f"no shards under {raw}; expected {raw}/<split>/<modality>/00000.tar")
    step.prepare()
    engine = engine or EngineConfig()
    progress = run_step(step, engine, max_damage)
    for line in progress.remarks.lines():
        print(f"warning: {line}", file=sys.stderr)
    if progress.report.entries:
        path = out / f"damage-{step.name}.json"
        _log.warning("tokenize: %s; all are in %s", progress.report.told(), path)
    mine = set(jobs[slice(*engine.shard_range)] if engine.shard_range else jobs)
    whole: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        whole.setdefault((job.split, job.number // chunk_shards), []).append(job)
    ready = [job for group in whole.values() if mine.issuperset(group) for job in group]
    run_step(step.joining(ready, chunk_shards), replace(engine, shard_range=None), max_damage)
    if engine.shard_range is None and not only:
        write_json_atomic(
            out / "done.json",
            {"shards": progress.num_done, "skipped": len(progress.report.entries)},
        )


def _tokenized(modalities: ModalitySet) -> list[str]:
    """Modalities that have tokens."""
    return [m.name for m in modalities if m.tokenizer is not None]


def _prepare_folder(folder: Path, described: dict[str, Any]) -> None:
    """Remove shards of another tokenizer and note whose shards come now."""
    note = folder / TOKENIZER_FILE
    if note.is_file():
        if json.loads(note.read_text()) == described:
            recover(folder)
            return
        for tar in folder.glob("*.tar"):
            tar.unlink()
        for chunk in (folder / PIECES, *folder.glob("*.chunk")):
            shutil.rmtree(chunk, ignore_errors=True)
    write_json_atomic(note, described)


# door of earlier releases: python -m fourm_data_prep.tokenize is fourm tokenize
main = door("tokenize")

if __name__ == "__main__":
    main()
