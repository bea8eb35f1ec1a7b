"""Samples a second of one core: the columnar cache against reading the same token tars through
webdataset.

    python benchmarks/loader.py [--samples 20000] [--out FILE]

Both give the same ids of four image modalities (196 tokens) and a caption; the tar side decodes and
stacks batches of 256 as a user of webdataset would. JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import webdataset as wds

from fourm.data.npy import read_npy, write_npy
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.modalities import ModalitySet

GRIDS, TOKENS, BATCH, SHARD = ("rgb", "depth", "normal", "semseg"), 196, 256, 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = {
        n: {
            "kind": "grid",
            "raw": {"type": "image", "size": 224},
            "vocab_size": 8192,
            "grid": [14, 14],
        }
        for n in GRIDS
    }
    text = {"kind": "sequence", "raw": {"type": "text"}, "vocab_size": 30000, "max_tokens": 64}
    modalities = ModalitySet.from_mapping({"modalities": {**table, "caption": text}})
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for shard in range(-(-options.samples // SHARD)):
            keys = [
                f"{i:08d}" for i in range(shard * SHARD, min((shard + 1) * SHARD, options.samples))
            ]
            for m in modalities:
                sizes = [TOKENS if m.kind == "grid" else int(rng.integers(5, 40)) for _ in keys]
                members = [
                    (k, "npy", write_npy(rng.integers(0, m.vocab_size, s).astype(np.uint16)))
                    for k, s in zip(keys, sizes, strict=True)
                ]
                write_shard(shard_path(root / "tokens", "train", m.name, shard), members)
        started = time.perf_counter()
        source = Source(
            SourceConfig(tokens=str(root / "tokens")), "train", modalities, root / "cache", 0.0
        )
        build = time.perf_counter() - started
        order = rng.permutation(options.samples)
        started = time.perf_counter()
        for i in range(0, len(order) - BATCH + 1, BATCH):
            source.gather(order[i : i + BATCH])
        columnar = (len(order) // BATCH * BATCH) / (time.perf_counter() - started)

        started, done = time.perf_counter(), 0
        names = [m.name for m in modalities]
        streams = []
        for name in names:
            shards = [str(p) for p in sorted((root / "tokens" / "train" / name).glob("*.tar"))]
            streams.append(iter(wds.WebDataset(shards, shardshuffle=False, empty_check=False)))  # type: ignore[attr-defined]
        pending: list[list[np.ndarray]] = [[] for _ in names]
        for samples in zip(*streams, strict=True):
            for column, sample in zip(pending, samples, strict=True):
                column.append(read_npy(sample["npy"]))
            done += 1
            if len(pending[0]) == BATCH:
                for name, column in zip(names, pending, strict=True):
                    if name in GRIDS:
                        np.stack(column)
                    column.clear()
        tars = done / (time.perf_counter() - started)
    result = {
        "samples": options.samples,
        "columnar_samples_per_s": round(columnar),
        "tar_samples_per_s": round(tars),
        "ratio": round(columnar / tars, 1),
        "cache_build_s": round(build, 2),
    }
    print(json.dumps(result))
    if options.out:
        options.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
