"""Masked samples that one core makes in a second, beside other ways to make them in the same run.

    python benchmarks/loader.py [--samples 2048] [--rounds 5] [--out FILE]

Samples are token shards on disk with the modalities and sizes of 4M-7 and 4M-21; texts have 5 ids
up to half of what they may have. Each row is order, gather, masks and packing (``MaskedBatches``),
CPU seconds, best of the rounds, against

* ``reference_like``: masks of the same config a sample at a time in torch (reference_masking.py);
  ids are in memory already, so what reading costs it is not counted;
* ``vectorised``: numpy over the whole batch (tests/vectorised_masking.py), from padded arrays;
* ``tars``: ids read and stacked through webdataset, without any masks.

Pixels have a benchmark of their own (pictures.py). JSON on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import reference_masking
import webdataset as wds

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig  # noqa: E402
from fourm.data.masked_batches import MaskedBatches  # noqa: E402
from fourm.data.npy import read_npy, write_npy  # noqa: E402
from fourm.data.opening import token_dtype  # noqa: E402
from fourm.data.order import SampleOrder  # noqa: E402
from fourm.data.shards import shard_path, write_shard  # noqa: E402
from fourm.data.store import Source, SourceConfig  # noqa: E402
from fourm.modalities import Modality, ModalitySet  # noqa: E402
from tests.vectorised_masking import PaddedTokens, VectorisedMasker  # noqa: E402

TAR_BATCH, REFERENCE_SAMPLES = 256, 64


def all_to_all(budget: int) -> MaskingConfig:
    component = MaskingComponent(input_default=0.5, target_default=0.5)
    return MaskingConfig(
        num_inputs=(budget, budget), num_targets=(budget, budget), components=(component,)
    )


def modalities_of(name: str, pixels: str = "") -> ModalitySet:
    whole = ModalitySet.load(ROOT / "configs" / "modalities" / f"{name}.yaml")
    kept = tuple(m for m in whole if m.kind != "continuous" or m.name == pixels)
    return ModalitySet(kept, whole.tokenizers)


def random_ids(m: Modality, rng: np.random.Generator) -> np.ndarray:
    num = m.num_tokens if m.kind != "sequence" else rng.integers(5, max(m.num_tokens // 2, 6))
    low = 300 if m.kind == "sequence" else 0  # behind the sentinels
    return rng.integers(low, m.vocab_size, num).astype(token_dtype(m.vocab_size))


def write_tokens(modalities: ModalitySet, root: Path, keys: list[str]) -> None:
    rng = np.random.default_rng(0)
    for m in modalities:
        if m.kind != "continuous":
            members = [(key, "npy", write_npy(random_ids(m, rng))) for key in keys]
            write_shard(shard_path(root / "tokens", "train", m.name, 0), members)


def opened(modalities: ModalitySet, root: Path, cache: Path | None = None) -> Source:
    folders = {"tokens": root / "tokens", "raw": root / "raw"}
    there = {name: str(path) for name, path in folders.items() if path.is_dir()}
    return Source(SourceConfig(**there), "train", modalities, cache or root / "cache", 0.0)


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def rates(ways: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Samples a CPU-second of each way (samples of a call, call), taking turns."""
    best = dict.fromkeys(ways, np.inf)
    for way in ways.values():
        way[1]()
    for _ in range(rounds):
        for name, (_, work) in ways.items():
            best[name] = min(best[name], cpu_seconds(work))
    return {name: round(num / best[name]) for name, (num, _) in ways.items()}


def loader(source: Source, config: MaskingConfig, batch: int) -> tuple[int, Callable[[], object]]:
    """All samples once, in batches."""
    order = SampleOrder([source.num_samples], [1.0], 0)
    batches = MaskedBatches([source], order, Masker(source.modalities, config, 0), batch, 1, 0, 1)
    steps = source.num_samples // batch
    return steps * batch, lambda: [batches[step] for step in range(steps)]


def compare_masks(source: Source, config: MaskingConfig, batch: int, rounds: int) -> dict:
    """The loader against masks a sample at a time and against numpy over a batch."""
    modalities = source.modalities
    tokens = source.gather(np.arange(min(batch, source.num_samples)))
    ids = {name: held.padded().astype(np.int64) for name, held in tokens.content.items()}
    lengths = {name: held.lengths for name, held in tokens.content.items()}
    padded = PaddedTokens(tokens.samples, ids, lengths, {})
    vectorised = VectorisedMasker(modalities, config, 0)
    samples = [
        {name: values[i, : lengths[name][i]] for name, values in ids.items()}
        for i in range(REFERENCE_SAMPLES)
    ]
    ways = {
        "loader": loader(source, config, batch),
        "vectorised": (len(tokens), lambda: vectorised(padded, tokens.samples)),
        "reference_like": (
            len(samples),
            lambda: reference_masking.mask_batch(modalities, config, samples),
        ),
    }
    found = rates(ways, rounds)
    return {
        "samples_per_cpu_s": found,
        "ratio": {
            name: round(found["loader"] / found[name], 1)
            for name in ("vectorised", "reference_like")
        },
    }


def compare_tars(source: Source, root: Path, rounds: int) -> dict:
    """The same ids read through webdataset and stacked."""

    def read() -> None:
        streams = []
        for m in source.modalities:
            shards = [str(p) for p in sorted((root / "tokens" / "train" / m.name).glob("*.tar"))]
            streams.append(iter(wds.WebDataset(shards, shardshuffle=False, empty_check=False)))  # type: ignore[attr-defined]
        pending: list[list[np.ndarray]] = [[] for _ in streams]
        for samples in zip(*streams, strict=True):
            for m, column, sample in zip(source.modalities, pending, samples, strict=True):
                column.append(read_npy(sample["npy"]))
                if len(column) == TAR_BATCH:
                    if m.kind != "sequence":
                        np.stack(column)
                    column.clear()

    ways = {
        "loader": loader(source, all_to_all(128), TAR_BATCH),
        "tars": (source.num_samples, read),
    }
    found = rates(ways, rounds)
    return {
        "samples_per_cpu_s": found,
        "ratio": {"tars": round(found["loader"] / found["tars"], 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    num, rounds, rows = options.samples, options.rounds, {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, budget, batches in (("4m_7", 128, (64, 1024)), ("4m_21", 256, (64,))):
            modalities, place = modalities_of(name), root / name
            write_tokens(modalities, place, [f"{i:08d}" for i in range(num)])
            source = opened(modalities, place)
            for batch in batches:
                row = f"{name}, {budget}/{budget}, batch {batch}"
                rows[row] = compare_masks(source, all_to_all(budget), batch, rounds)
            if name == "4m_7":
                rows["4m_7 against webdataset tars"] = compare_tars(source, place, rounds)
    print(json.dumps(rows, indent=1))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
