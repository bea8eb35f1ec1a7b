"""A ragged data set in chunks, published."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np

from fourm.data.chunks import ChunkWriter
from fourm.data.columns import TOKENIZER_FILE
from fourm.data.remote.published import publish
from fourm.modalities import ModalitySet
from fourm.numbers.rng import CounterRNG

MODALITIES = {
    "rgb": {
        "kind": "grid",
        "raw": {"type": "image", "size": 16},
        "vocab_size": 500,
        "grid": [4, 4],
    },
    "depth": {
        "kind": "grid",
        "raw": {"type": "depth", "size": 16},
        "vocab_size": 90,
        "grid": [4, 4],
    },
    "caption": {
        "kind": "sequence",
        "raw": {"type": "text"},
        "tokenizer": "text",
        "max_tokens": 16,
    },
}
TOKENIZERS = {
    "text": {"type": "text", "vocab_size": 200, "num_sentinels": 16, "num_axes": 4, "num_bins": 32}
}
MASKING = {
    "num_inputs": [4, 16],
    "num_targets": [4, 16],
    "components": [
        {"input_default": 0.5, "target_default": 0.5},
        {"input": {"caption": 9}, "target_default": 0.5, "weight": 2.0},
    ],
}


def modality_mapping() -> dict:
    return copy.deepcopy({"tokenizers": TOKENIZERS, "modalities": MODALITIES})


def modality_set() -> ModalitySet:
    return ModalitySet.from_mapping(modality_mapping())


def ids_of(seed: int, num: int) -> dict[str, dict[int, np.ndarray]]:
    """Ids of the samples that have a modality: all have rgb, some lack others."""
    rng, every = CounterRNG(seed, "world"), np.arange(num)
    place = np.arange(16)
    rgb = rng.integers(0, 499, every[:, None], place, 0).astype(np.uint16)
    depth = rng.integers(0, 89, every[:, None], place, 1).astype(np.uint16)
    text = rng.integers(40, 199, every[:, None], place, 2).astype(np.uint16)
    lengths = rng.integers(1, 16, every, 3)
    has_depth, has_text = rng.uniform(every, 4) < 0.7, rng.uniform(every, 5) < 0.6
    return {
        "rgb": dict(enumerate(rgb)),
        "depth": {i: depth[i] for i in every[has_depth].tolist()},
        "caption": {i: text[i, : lengths[i]] for i in every[has_text].tolist()},
    }


def write_world(root: Path, num: int, seed: int = 0, splits: tuple[str, ...] = ("train",)) -> None:
    """Chunks of 500 samples below ``root``, published."""
    for number, split in enumerate(splits):
        size = num if split == "train" else 40
        for name, samples in ids_of(seed + 100 * number, size).items():
            for part, first in enumerate(range(0, size, 500)):
                folder = root / split / name / f"{part:05d}.chunk"
                folder.mkdir(parents=True)
                with ChunkWriter(folder, {"fingerprint": "made-for-tests"}) as writer:
                    for i in range(first, first + 500):
                        if i in samples:
                            writer.add(f"{part:05d}/{i:06d}", samples[i])
            note = {"fingerprint": "made-for-tests", "vocab_size": 1, "dtype": "uint16"}
            (root / split / name / TOKENIZER_FILE).write_text(json.dumps(note))
    publish(root, 4096)
