"""Half of each modality missing at random, against complete data and against dropping samples.

    python benchmarks/ragged.py [--steps 400] [--seeds 3] [--samples 4096]

Scenes of the demo's world as six modalities whose ids are made by rule (block means of pictures,
depth and normals, classes, words, boxes), so that nothing is trained before. Three trainings see
the same number of tokens, inputs and targets together, out of data sets with the same number of
tokens: ``complete`` (all modalities of n samples), ``ragged`` (2 n samples, each modality of each
missing with probability 1/2) and ``dropped`` (of the ragged set the samples that are complete, as
``require: all`` leaves them). ``few`` is ``ragged`` with half the samples, thus half the tokens.
What counts is the loss on held-out complete samples. Rows go to ``ragged.json``; exit status 0 if
ragged is within 3 % of complete on the mean of the seeds, and better than dropped by over three
standard errors.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from einops import rearrange, reduce

from fourm.config import from_mapping
from fourm.data.npy import write_npy
from fourm.data.shards import shard_path, write_shard
from fourm.demo.render import FAR, render
from fourm.demo.scenes_to_shards import annotate
from fourm.demo.world import make_scenes
from fourm.modalities import ModalitySet
from fourm.training.pretrain import PretrainConfig, PretrainTask, pretrain

SIZE, GRID = 24, 6
GRIDS = {"rgb": 512, "depth": 64, "normal": 216, "semseg": 16}  # vocabulary of each
FIRST_WORD, VOCABULARY, BINS = 40, 400, 32  # of texts
HELD_OUT = 256
DESCRIBED = {
    "tokenizers": {"text": {"type": "text", "vocab_size": VOCABULARY, "num_sentinels": 16}},
    "modalities": {
        **{
            name: {
                "kind": "grid",
                "raw": {"type": "image", "size": SIZE},
                "vocab_size": vocab_size,
                "grid": [GRID, GRID],
            }
            for name, vocab_size in GRIDS.items()
        },
        **{
            name: {
                "kind": "sequence",
                "raw": {"type": "text"},
                "tokenizer": "text",
                "max_tokens": most,
            }
            for name, most in (("caption", 24), ("boxes", 20))
        },
    },
}
Sample = dict[str, np.ndarray]  # ids of each modality


def tokens_of(first: int, num: int) -> list[Sample]:
    """Ids of all modalities of scenes ``first`` ..."""
    scenes = make_scenes(0, np.arange(first, first + num))
    raw = annotate(scenes, render(scenes, SIZE))
    words: dict[str, int] = {}
    blocks = "b (h p) (w q) c -> b h w c"
    rgb, normal = (
        reduce(np.stack(raw[name]).astype(float), blocks, "mean", h=GRID, w=GRID)
        for name in ("rgb", "normal")
    )
    depth = reduce(np.stack(raw["depth"]), "b (h p) (w q) -> b h w", "mean", h=GRID, w=GRID)
    step = SIZE // GRID
    grids = {
        "rgb": _packed(rgb / 256, 8),
        "normal": _packed(normal / 256 if normal.max() > 1.5 else (normal + 1) / 2.001, 6),
        "depth": (depth / FAR * 63).clip(0, 63).astype(int),
        "semseg": np.stack(raw["semseg"])[:, step // 2 :: step, step // 2 :: step].astype(int),
    }
    samples = []
    for i in range(num):
        sample = {name: rearrange(ids[i], "h w -> (h w)") for name, ids in grids.items()}
        said = raw["caption"][i].split()
        sample["caption"] = np.array([_word(words, word) for word in said[:24]])
        sample["boxes"] = np.concatenate(
            [
                [_word(words, box["label"]), *(_bin(x) for x in box["box"])]
                for box in raw["boxes"][i][:4]
            ]
            or [[FIRST_WORD]]
        )
        samples.append(sample)
    return samples


def _packed(values: np.ndarray, levels: int) -> np.ndarray:
    """(..., 3) in [0, 1) -> one id of levels³."""
    digits = (values * levels).astype(int).clip(0, levels - 1)
    return digits @ np.array([levels**2, levels, 1])


def _word(words: dict[str, int], word: str) -> int:
    # the same numbers in every part of the world: by the letters
    return FIRST_WORD + BINS + sum(ord(c) * 7**i for i, c in enumerate(word)) % 311


def _bin(x: float) -> int:
    return FIRST_WORD + min(int(x * BINS), BINS - 1)


def write(root: Path, split: str, samples: list[Sample]) -> None:
    """Token shards, a folder a modality; a sample lacks what it does not have."""
    for name in DESCRIBED["modalities"]:
        members = (
            (f"{i:06d}", "npy", write_npy(sample[name].astype(np.uint16)))
            for i, sample in enumerate(samples)
            if name in sample
        )
        write_shard(shard_path(root, split, name, 0), members)


def with_gaps(samples: list[Sample], seed: int) -> list[Sample]:
    """The samples, each modality of each missing with probability 1/2."""
    rng = np.random.default_rng(seed)
    return [{n: ids for n, ids in sample.items() if rng.random() < 0.5} for sample in samples]


def config_of(arm: str, seed: int, scratch: Path, steps: int) -> PretrainConfig:
    source = {"tokens": str(scratch / ("ragged" if arm == "dropped" else arm))}
    if arm == "dropped":
        source["require"] = "all"
    config = {
        "out": str(scratch / "runs" / f"{arm}-{seed}"),
        "modalities": str(scratch / "modalities.yaml"),
        "model": {"dim": 96, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 3},
        "data": {"sources": [source], "cache": str(scratch / "cache")},
        "masking": {
            "num_inputs": [8, 64],
            "num_targets": [48, 48],
            "components": [{"input_default": 0.5, "target_default": 0.5}],
        },
        "loop": {
            "steps": steps,
            "batch_size": 32,
            "seed": seed,
            "optimizer": {"name": "muon"},
            "schedule": {"name": "wsd", "warmup": 30, "decay": 0.4},
            "num_workers": 0,
            "threads": 1,
            "checkpoint_every": steps,
            "log_every": 50,
        },
        "eval_samples": HELD_OUT,
    }
    return from_mapping(PretrainConfig, config, "benchmark")


def rows_a_step(config: PretrainConfig) -> float:
    """Tokens of both streams that a step sees, on average."""
    task = PretrainTask(config, ModalitySet.load(config.modalities))
    batches = task.batches(0, 1)
    return float(np.mean([batch.num_rows for step in range(24) for batch in batches[step]]))


def main() -> None:
    """Write the data sets, train, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--arms", nargs="+", default=["complete", "ragged", "dropped", "few"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    scratch = Path(tempfile.mkdtemp())
    (scratch / "modalities.yaml").write_text(yaml.safe_dump(DESCRIBED, sort_keys=False))
    samples, held_out = tokens_of(0, 2 * given.samples), tokens_of(10**6, HELD_OUT)
    sets = {
        "complete": samples[: given.samples],
        "ragged": with_gaps(samples, 0),
        "few": with_gaps(samples[: given.samples], 0),
    }
    for name, held in sets.items():
        write(scratch / name, "train", held)
        write(scratch / name, "val", held_out)
    wanted = rows_a_step(config_of("complete", 0, scratch, 1)) * given.steps
    losses: dict[str, list[float]] = {}
    report: dict[str, dict] = {}
    for arm in given.arms:
        rows = rows_a_step(config_of(arm, 0, scratch, 1))
        steps, began = round(wanted / rows), time.process_time()
        for seed in range(given.seeds):
            figures = pretrain(config_of(arm, seed, scratch, steps))
            losses.setdefault(arm, []).append(figures["loss"])
        report[arm] = {
            "loss": float(np.mean(losses[arm])),
            "seeds": losses[arm],
            "steps": steps,
            "rows_a_step": rows,
            "cpu_seconds": time.process_time() - began,
            **{k: v for k, v in figures.items() if k.startswith("loss/")},
        }
        print(arm, json.dumps(report[arm]), flush=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    shutil.rmtree(scratch)
    complete, ragged, dropped = (
        report.get(n, {}).get("loss", np.nan) for n in ("complete", "ragged", "dropped")
    )
    print(f"ragged / complete {ragged / complete:.4f}, dropped / complete {dropped / complete:.4f}")
    errors = [np.std(losses[arm], ddof=1) / given.seeds**0.5 for arm in ("ragged", "dropped")]
    is_better = dropped - ragged > 3 * float(np.hypot(*errors))
    sys.exit(0 if ragged <= 1.03 * complete and is_better else 1)


if __name__ == "__main__":
    main()
