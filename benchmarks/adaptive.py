"""Adaptive mixtures against what they must beat: fixed shares, temperature, shares in proportion to
the losses.

    make demo                                          (once; its tokens are used)
    python benchmarks/adaptive.py [--of sources|components] [--project runs/demo] [--steps 400]
                                  [--seeds 3]

Half of everything is noise: random ids, as a broken tokenizer gives, as hard as can be and nothing
to learn. ``sources``: of three data sets, ``clean`` (pictures, depth, normals, classes), ``easy``
(depth and classes alone) and ``noise``, what counts is the mean held-out loss of the first two.
``components``: of two ways to mask one data set, one asks for pictures, depth, normals and classes
from one another, one for a fifth modality of noise; what counts is the loss of the four. All rules
train the same steps on as many samples. Rows are added to ``adaptive.json``; exit status 0 if the
adaptive mixture is better than every baseline on the mean of the seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fourm.config import from_mapping, read_yaml
from fourm.data.npy import write_npy
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.modalities import ModalitySet
from fourm.training.pretrain import PretrainConfig, pretrain

NAMES = ("rgb", "depth", "normal", "semseg")
WEIGHTS = {
    "sources": {"clean": 0.25, "easy": 0.25, "noise": 0.5},
    "components": {"pictures": 0.5, "noise": 0.5},
}
NOISE_IDS = 1000
RULES: dict[str, dict[str, Any] | None] = {
    "fixed": None,
    "temperature 2": None,
    "in proportion to the loss": {"rule": "loss"},
    "adaptive": {"rule": "progress"},
}


def write_sources(project: Path, out: Path, of: str) -> Path:
    """Token shards of all sources; returns the modality set's path."""
    described = read_yaml(project / "modalities.yaml")
    described["modalities"] = {n: described["modalities"][n] for n in NAMES}
    if of == "components":
        described["modalities"]["noise"] = {
            "kind": "grid",
            "raw": {"type": "image", "size": 48},
            "vocab_size": NOISE_IDS,
            "grid": [6, 6],
        }
    (out / "modalities.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    modalities = ModalitySet.load(out / "modalities.yaml")
    for split in ("train", "val"):
        source = Source(
            SourceConfig(tokens=str(project / "tokens")), split, modalities, out / "cache", 0.05
        )
        rng = np.random.default_rng(0)
        tokens = source.gather(rng.permutation(source.num_samples))
        clean = {name: held.padded() for name, held in tokens.content.items()}
        noise = {n: rng.integers(0, modalities[n].vocab_size, v.shape) for n, v in clean.items()}
        if of == "components":
            sources = {
                "mixed": {**clean, "noise": rng.integers(0, NOISE_IDS, (source.num_samples, 36))}
            }
        else:
            sources = {
                "clean": clean,
                "easy": {n: clean[n] for n in ("depth", "semseg")},
                "noise": noise,
            }
        for name, ids in sources.items():
            for modality, values in ids.items():
                members = (
                    (f"{i:06d}", "npy", write_npy(v.astype(np.uint16)))
                    for i, v in enumerate(values)
                )
                write_shard(shard_path(out / name, split, modality, 0), members)
    return out / "modalities.yaml"


def train(
    of: str, rule: str, seed: int, steps: int, scratch: Path, modalities: Path
) -> dict[str, float]:
    members = list(WEIGHTS[of])
    shares = np.array(list(WEIGHTS[of].values()))
    if rule == "temperature 2":
        shares = shares**0.5 / (shares**0.5).sum()
    out = scratch / f"{rule.replace(' ', '-')}-{seed}"
    grids, fixed = dict.fromkeys(NAMES, 1.0), RULES[rule]
    sources, components = [{"tokens": str(scratch / "mixed")}], [{"input": grids, "target": grids}]
    if of == "sources":
        sources = [
            {"tokens": str(scratch / n), "weight": float(w)}
            for n, w in zip(members, shares, strict=True)
        ]
    else:
        targets = ({"target": grids}, {"target": {"noise": 1.0}})
        components = [
            {"input": grids, "weight": float(w), **t} for w, t in zip(shares, targets, strict=True)
        ]
    config = {
        "out": str(out),
        "modalities": str(modalities),
        "model": {"dim": 96, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 3},
        "data": {"sources": sources, "cache": str(scratch / "cache")},
        "masking": {"num_inputs": [48, 48], "num_targets": [24, 24], "components": components},
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
        "adaptive": None
        if fixed is None
        else {**fixed, "of": of, "every": max(1, steps // 16), "probe_samples": 64},
        "eval_samples": 256,
    }
    figures = pretrain(from_mapping(PretrainConfig, config, "benchmark"))
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    mixtures = [r["mixture"][of] for r in logged if "mixture" in r]
    mean = np.mean([shares, *mixtures], 0) if mixtures else shares
    shutil.rmtree(out)
    if of == "sources":
        losses = {"clean": figures["loss"], "easy": figures[f"loss of {scratch / 'easy'}"]}
    else:
        losses = {n: figures[f"loss/{n}"] for n in NAMES}
    return {
        "loss": float(np.mean(list(losses.values()))),
        **losses,
        **{f"mean share of {n}": float(v) for n, v in zip(members, mean, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--of", choices=tuple(WEIGHTS), default="sources")
    parser.add_argument("--project", type=Path, default=Path("runs/demo"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    o = parser.parse_args()
    _quiet()
    scratch = Path(tempfile.mkdtemp())
    rows: dict[str, dict[str, str]] = {}
    clean = {}
    try:
        modalities = write_sources(o.project, scratch, o.of)
        jobs = [
            (o.of, rule, seed, o.steps, scratch, modalities)
            for rule in RULES
            for seed in range(o.seeds)
        ]
        # its columns are made before several read them
        train(o.of, jobs[0][1], 0, 2, scratch, modalities)
        with ProcessPoolExecutor(
            os.cpu_count(), mp_context=get_context("spawn"), initializer=_quiet
        ) as pool:
            everything = list(pool.map(train, *zip(*jobs, strict=True)))
        for i, rule in enumerate(RULES):
            found = everything[i * o.seeds : (i + 1) * o.seeds]
            rows[rule] = {
                k: f"{np.mean([f[k] for f in found]):.3f} ± {np.std([f[k] for f in found]):.3f}"
                for k in found[0]
            }
            clean[rule] = float(np.mean([f["loss"] for f in found]))
            print(rule, rows[rule], flush=True)
    finally:
        shutil.rmtree(scratch)
    result = json.loads(o.out.read_text()) if o.out.is_file() else {}
    result[o.of] = {"steps": o.steps, "seeds": o.seeds, "rows": rows}
    o.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    sys.exit(0 if min(clean, key=lambda rule: clean[rule]) == "adaptive" else 1)


def _quiet() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
