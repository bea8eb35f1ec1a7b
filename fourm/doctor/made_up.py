"""Data of a config whose own is not there: a few samples of random tokens of full length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fourm.data.npy import write_npy
from fourm.data.opening import token_dtype
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import DataConfig
from fourm.modalities import Modality, ModalitySet
from fourm.training.pretrain import PretrainConfig

_NUM = 16  # samples; they come again and again


def with_made_up_data(
    config: PretrainConfig, modalities: ModalitySet, folder: Path
) -> PretrainConfig:
    """The same training on random tokens, written into ``folder``."""
    tokens, raw, rng = folder / "tokens", folder / "raw", np.random.default_rng(0)
    for split in ("train", "val"):
        for m in modalities:
            root, name = (raw, m.raw_name) if m.kind == "continuous" else (tokens, m.name)
            members = ((f"{i:04d}", *_member(m, rng)) for i in range(_NUM))
            write_shard(shard_path(root, split, name, 0), members)
    # each source keeps its weight and what is its own
    sources = tuple(
        replace(
            s, tokens=str(tokens) if s.tokens else "", raw=str(raw) if s.raw else "", exclude=""
        )
        for s in config.data.sources
    )
    data = DataConfig(sources=sources, cache=str(folder / "cache"))
    return replace(config, data=data, tokenizers="", adaptive=None)


def _member(m: Modality, rng: np.random.Generator) -> tuple[str, bytes]:
    """Extension and bytes of one sample."""
    if m.kind != "continuous":
        ids = rng.integers(0, m.vocab_size, m.num_tokens)
        return "npy", write_npy(ids.astype(token_dtype(m.vocab_size)))
    shape = (m.num_tokens, m.width)
    if m.patch_size:
        shape = (m.raw.pixels, m.raw.pixels, m.raw.num_channels)
        return m.raw.extensions[0], m.raw.write(np.zeros(shape, np.uint8))
    return m.raw.extensions[0], m.raw.write(np.zeros(shape, np.float32))
