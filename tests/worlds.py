"""A small project on disk for tests of data and training: real shards of rendered scenes, a trained
text tokenizer, random image codes.
"""

import json
from pathlib import Path

import numpy as np
import yaml

from fourm.data.columns import TOKENIZER_FILE
from fourm.data.npy import write_npy
from fourm.data.shards import shard_path, write_shard
from fourm.demo.scenes_to_shards import write_scene_shard

MODALITIES = {
    "tokenizers": {
        "text": {
            "type": "text",
            "vocab_size": 200,
            "num_sentinels": 16,
            "num_axes": 4,
            "num_bins": 32,
        }
    },
    "modalities": {
        "rgb": {
            "kind": "grid",
            "raw": {"type": "image", "size": 16},
            "vocab_size": 40,
            "grid": [4, 4],
        },
        "pixels": {"kind": "continuous", "source": "rgb", "patch_size": 4},
        "depth": {
            "kind": "grid",
            "raw": {"type": "depth", "size": 16, "range": [3.0, 12.0]},
            "vocab_size": 24,
            "grid": [4, 4],
        },
        "caption": {
            "kind": "sequence",
            "raw": {"type": "text"},
            "tokenizer": "text",
            "max_tokens": 16,
        },
    },
}

PRETRAIN = {
    "model": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
    "masking": {
        "num_inputs": [4, 16],
        "num_targets": [4, 16],
        "components": [
            {"input_default": 0.5, "target_default": 0.5},
            {"input": {"pixels": 100}, "target_default": 0.5},
        ],
    },
    "loop": {
        "steps": 24,
        "batch_size": 8,
        "checkpoint_every": 5,
        "log_every": 1,
        "num_workers": 0,
        "threads": 1,
        "optimizer": {"name": "muon"},
        "schedule": {"warmup": 4},
        "ema": 0.9,
    },
    "eval_samples": 16,
}


def write_project(root: Path, num: int = 48, **loop) -> Path:
    """Raw and token shards of ``num`` scenes (and 8 held-out ones) and a pretraining config;
    returns the config's path.
    """
    raw, tokens = root / "raw", root / "tokens"
    write_scene_shard(raw, "train", 0, 0, num, 16)
    write_scene_shard(raw, "val", 1, 0, 8, 16)
    rng = np.random.default_rng(0)
    for split, count in (("train", num), ("val", 8)):
        keys = [f"{i:08d}" for i in range(count)]
        for name, size, length in (("rgb", 40, 16), ("depth", 24, 16), ("caption", 180, 9)):
            ids = (
                rng.integers(30, size, (count, length))
                if name == "caption"
                else np.tile(rng.integers(0, size, (count, 1)), length)
            )
            write_shard(
                shard_path(tokens, split, name, 0),
                (
                    (k, "npy", write_npy(i.astype(np.uint16)))
                    for k, i in zip(keys, ids, strict=True)
                ),
            )
            note = {"fingerprint": "made-for-tests", "vocab_size": size, "dtype": "uint16"}
            (tokens / split / name / TOKENIZER_FILE).write_text(json.dumps(note))
    (root / "modalities.yaml").write_text(yaml.safe_dump(MODALITIES, sort_keys=False))
    config = {
        **PRETRAIN,
        "out": str(root / "run"),
        "modalities": str(root / "modalities.yaml"),
        "loop": {**PRETRAIN["loop"], **loop},
        "data": {
            "sources": [{"tokens": str(tokens), "raw": str(raw)}],
            "cache": str(root / "cache"),
        },
    }
    (root / "pretrain.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return root / "pretrain.yaml"


def write_project_without_depth(root: Path) -> tuple[Path, Path]:
    """A project of two steps, and the modality set that lacks depth: what a model is trained on
    that depth is added to.
    """
    config, fewer = write_project(root, steps=2), root / "fewer.yaml"
    known = {name: m for name, m in MODALITIES["modalities"].items() if name != "depth"}
    fewer.write_text(yaml.safe_dump({**MODALITIES, "modalities": known}, sort_keys=False))
    return config, fewer


def curve(out: Path) -> list[tuple[int, float]]:
    """(step, loss) of a run's log."""
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"]) for r in records if "loss" in r]
