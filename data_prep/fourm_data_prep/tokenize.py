"""Raw shards -> token shards, one shard at a time, all modalities of a shard in one go.

    python -m fourm_data_prep.tokenize --config MODALITIES.yaml --raw DIR --tokenizers DIR --out DIR [--engine local|ray]

A shard is a pure function of its raw shard and the tokenizers; it is written under a temporary name and renamed, so a killed run is
simply started again. ``tokenizer.json`` beside the shards says who made them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from fourm.codecs import CodecSet
from fourm.commands import run_command
from fourm.data.raw import read_raw, write_npy
from fourm.data.shards import DamageReport, read_shard, shard_path, shard_paths, write_json_atomic, write_shard
from fourm.data.store import TOKENIZER_FILE, token_dtype
from fourm.modalities import ModalitySet
from fourm_data_prep.engine import MANIFESTS, Job, ShardResult, fingerprint, run_step, stamp
from fourm_data_prep.engine_options import EngineConfig, add_engine_options, engine_of

_ENCODE_SAMPLES = 64


class TokenizeStep:
    """Tokenizes shards with the codecs of one modality set; each worker opens them once."""

    name = "tokenize"

    def __init__(self, modalities: ModalitySet, raw: Path, tokenizers: Path, out: Path) -> None:
        self.modalities, self.raw, self.tokenizers, self.out = modalities, raw, tokenizers, out
        self.names = [m.name for m in modalities if m.tokenizer is not None]
        self._fingerprints: dict[str, str] = {}
        self._codecs: CodecSet | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_codecs": None}  # weights stay here; workers open their own

    @property
    def codecs(self) -> CodecSet:
        if self._codecs is None:
            self._codecs = CodecSet(self.modalities, self.tokenizers)
        return self._codecs

    def fingerprint_of(self, name: str) -> str:
        if name not in self._fingerprints:
            self._fingerprints[name] = self.codecs[name].fingerprint
        return self._fingerprints[name]

    def describe(self, name: str) -> dict[str, Any]:
        """What ``tokenizer.json`` says of a modality."""
        m = self.modalities[name]
        size = min(self.codecs[name].codebook_size, m.vocab_size)
        return {"fingerprint": self.fingerprint_of(name), "vocab_size": size, "dtype": token_dtype(m.vocab_size).name}

    def described(self) -> dict[str, Any]:
        return {"modalities": self.modalities.to_mapping(), "fingerprints": {n: self.fingerprint_of(n) for n in self.names}}

    def _splits(self) -> list[str]:
        return sorted(path.name for path in self.raw.iterdir() if path.is_dir() and path.name != MANIFESTS)

    def jobs(self) -> list[Job]:
        jobs = []
        for split in self._splits():
            numbers: dict[int, list[Any]] = {}
            for name in self.names:
                for path in shard_paths(self.raw, split, self.modalities[name].raw_name):
                    if path.stem.isdigit():
                        numbers.setdefault(int(path.stem), []).append([name, stamp(path)])
            jobs += [Job(split, number, fingerprint(inputs)) for number, inputs in sorted(numbers.items())]
        return jobs

    def prepare(self) -> None:
        """Note beside the shards of each modality who makes them."""
        for split in self._splits():
            for name in self.names:
                if shard_paths(self.raw, split, self.modalities[name].raw_name):
                    _prepare_folder(self.out / split / name, self.describe(name))

    def run(self, job: Job) -> ShardResult:
        report = DamageReport()
        outputs, count = [], 0
        for name in self.names:
            source = shard_path(self.raw, job.split, self.modalities[name].raw_name, job.number)
            if source.is_file():
                target = shard_path(self.out, job.split, name, job.number)
                count = max(count, write_shard(target, self._members(name, source, report)))
                outputs.append(str(target.relative_to(self.out)))
        return ShardResult(tuple(outputs), count, tuple(report.entries))

    def _members(self, name: str, source: Path, report: DamageReport):
        m, codec, dtype = self.modalities[name], self.codecs[name], token_dtype(self.modalities[name].vocab_size)
        pending: list[tuple[str, Any]] = []

        def encoded():
            try:
                return codec.encode([value for _, value in pending])
            except ValueError:
                return None

        def flush():
            together = encoded()
            for i, (key, value) in enumerate(pending):
                try:  # a malformed value costs itself, not its neighbours
                    ids = codec.encode([value])[0] if together is None else together[i]
                except ValueError as error:
                    report.add(source, key, str(error))
                    continue
                yield key, "npy", write_npy(np.asarray(ids).astype(dtype))
            pending.clear()

        for item in read_shard(source, lambda data, extension: read_raw(data, extension, m.raw), m.raw.extensions, report):
            pending.append(item)
            if len(pending) == _ENCODE_SAMPLES:
                yield from flush()
        yield from flush()


def tokenize(
    modalities_path: Path, raw: Path, tokenizers: Path, out: Path, max_damage: float = 0.05, engine: EngineConfig | None = None
) -> None:
    """Tokenize every split and shard that lies under ``raw``. Raises ValueError above ``max_damage`` damaged samples."""
    if not raw.is_dir():
        raise ValueError(f"no folder of raw shards {raw}")
    step = TokenizeStep(ModalitySet.load(modalities_path), raw, tokenizers, out)
    if not step.jobs():
        raise ValueError(f"no shards under {raw}; expected {raw}/<split>/<modality>/00000.tar")
    step.prepare()
    progress = run_step(step, engine or EngineConfig(), max_damage)
    if engine is None or engine.shard_range is None:
        write_json_atomic(out / "done.json", {"shards": progress.num_done, "skipped": len(progress.report.entries)})


def _prepare_folder(folder: Path, described: dict[str, Any]) -> None:
    """Remove shards of another tokenizer and note whose shards come now."""
    note = folder / TOKENIZER_FILE
    if note.is_file():
        if json.loads(note.read_text()) == described:
            return
        for stale in folder.glob("*.tar"):
            stale.unlink()
    write_json_atomic(note, described)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Raw shards to token shards.")
    parser.add_argument("--config", required=True, type=Path, help="YAML file of modalities")
    parser.add_argument("--raw", required=True, type=Path, help="folder of raw shards")
    parser.add_argument("--tokenizers", required=True, type=Path, help="folder of trained tokenizers")
    parser.add_argument("--out", required=True, type=Path, help="folder of token shards")
    parser.add_argument("--max-damage", type=float, default=0.05, help="largest share of samples that may be skipped")
    add_engine_options(parser)
    o = parser.parse_args(arguments)
    run_command(lambda: tokenize(o.config, o.raw, o.tokenizers, o.out, o.max_damage, engine_of(o)))


if __name__ == "__main__":
    main()
