"""Raw shards -> token shards, one shard at a time, all modalities of a shard in one go.

    python -m fourm_data_prep.tokenize --config MODALITIES.yaml --raw DIR --tokenizers DIR --out DIR [--workers N]

A shard is a pure function of its raw shard and the tokenizers; it is written under a temporary name and renamed, so a killed run is
simply started again. ``tokenizer.json`` beside the shards says who made them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fourm.codecs import CodecSet
from fourm.commands import run_command
from fourm.data.raw import read_raw, write_npy
from fourm.data.shards import DamageReport, read_shard, shard_path, shard_paths, write_json_atomic, write_shard
from fourm.data.store import TOKENIZER_FILE, token_dtype
from fourm.modalities import ModalitySet

_ENCODE_SAMPLES = 64


class ShardTokenizer:
    """Tokenizes shards with the codecs of one modality set; opened once in each worker."""

    def __init__(self, modalities: ModalitySet, raw: Path, tokenizers: Path, out: Path) -> None:
        self.modalities, self.raw, self.out = modalities, raw, out
        self.codecs = CodecSet(modalities, tokenizers)
        self.names = [m.name for m in modalities if m.tokenizer is not None]

    def describe(self, name: str) -> dict[str, Any]:
        """What ``tokenizer.json`` says of a modality."""
        m, codec = self.modalities[name], self.codecs[name]
        size = min(codec.codebook_size, m.vocab_size)
        return {"fingerprint": codec.fingerprint, "vocab_size": size, "dtype": token_dtype(m.vocab_size).name}

    def run(self, split: str, number: int) -> DamageReport:
        """Tokenize one shard of all modalities; what is there already is left alone."""
        report = DamageReport()
        for name in self.names:
            target = shard_path(self.out, split, name, number)
            source = shard_path(self.raw, split, self.modalities[name].raw_name, number)
            if not target.is_file() and source.is_file():
                write_shard(target, self._members(name, source, report))
        return report

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


def tokenize(modalities_path: Path, raw: Path, tokenizers: Path, out: Path, workers: int = 0, max_damage: float = 0.05) -> None:
    """Tokenize every split and shard that lies under ``raw``. Raises ValueError above ``max_damage`` damaged samples."""
    modalities = ModalitySet.load(modalities_path)
    if not raw.is_dir():
        raise ValueError(f"no folder of raw shards {raw}")
    lead = ShardTokenizer(modalities, raw, tokenizers, out)
    splits = sorted(path.name for path in raw.iterdir() if path.is_dir())
    report = DamageReport(max_damage)
    jobs = []
    for split in splits:
        numbers: set[int] = set()
        for name in lead.names:
            shards = shard_paths(raw, split, modalities[name].raw_name)
            numbers.update(int(path.stem) for path in shards if path.stem.isdigit())
            if shards:
                _prepare_folder(out / split / name, lead.describe(name))
        jobs += [(split, number) for number in sorted(numbers)]
    if not jobs:
        raise ValueError(f"no shards under {raw}; expected {raw}/<split>/<modality>/00000.tar")
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    with tqdm(total=len(jobs), desc="tokenize", unit="shard") as bar:
        if workers == 1:
            for job in jobs:
                report.merge(lead.run(*job))
                bar.update()
        else:
            context = multiprocessing.get_context("spawn")
            arguments = (str(modalities_path), str(raw), str(tokenizers), str(out))
            with context.Pool(workers, _open_worker, arguments) as pool:
                for part in pool.imap_unordered(_run_worker, jobs):
                    report.merge(part)
                    bar.update()
    report.check(out / "damage.json")
    write_json_atomic(out / "done.json", {"shards": len(jobs), "skipped": len(report.entries)})


def _prepare_folder(folder: Path, described: dict[str, Any]) -> None:
    """Remove shards of another tokenizer and note whose shards come now."""
    note = folder / TOKENIZER_FILE
    if note.is_file():
        if json.loads(note.read_text()) == described:
            return
        for stale in folder.glob("*.tar"):
            stale.unlink()
    write_json_atomic(note, described)


_worker: ShardTokenizer


def _open_worker(modalities: str, raw: str, tokenizers: str, out: str) -> None:
    global _worker
    import torch

    torch.set_num_threads(1)
    _worker = ShardTokenizer(ModalitySet.load(modalities), Path(raw), Path(tokenizers), Path(out))


def _run_worker(job: tuple[str, int]) -> DamageReport:
    return _worker.run(*job)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Raw shards to token shards.")
    parser.add_argument("--config", required=True, type=Path, help="YAML file of modalities")
    parser.add_argument("--raw", required=True, type=Path, help="folder of raw shards")
    parser.add_argument("--tokenizers", required=True, type=Path, help="folder of trained tokenizers")
    parser.add_argument("--out", required=True, type=Path, help="folder of token shards")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 = one for each core")
    parser.add_argument("--max-damage", type=float, default=0.05, help="largest share of samples that may be skipped")
    o = parser.parse_args(arguments)
    run_command(lambda: tokenize(o.config, o.raw, o.tokenizers, o.out, o.workers, o.max_damage))


if __name__ == "__main__":
    main()
