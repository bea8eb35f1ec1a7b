"""JAR against the plain encoder on the demo world: held-out loss against encoder operations and
time, at equal steps and data.

    make demo                                        (once; its tokens are used)
    python benchmarks/jar.py [--task dense] [--only plain,shrunk,jar-32] [--steps 600] [--seeds 3]
    python benchmarks/jar.py --task caption --steps 300  (text from pictures, as in the paper)
    python benchmarks/jar.py --task lookup --steps 300  (one of many tokens, asked for by its place)
    python benchmarks/jar.py --task distil --steps 300  (taught by a plain model, at half its steps)

``dense``: pictures, depth, normals and classes of the demo world from one another, 128 visible
tokens. ``shrunk`` is the real rival: a plain encoder of as few operations as ``jar-32`` has,
``shrunk to 2 layers`` one for ``jar-16``. In the lookup test latents, which do not know the
question, must lose as they get fewer. Rows are added to ``jar.json``; exit status 0 if a JAR
encoder with a third fewer operations is within 1 % of the plain loss (lookup: if it behaves so;
distil: if teaching helps).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm.config import from_mapping, read_yaml
from fourm.modalities import ModalitySet
from fourm.model.flops import encoder_flops, flops
from fourm.model.model import ModelConfig, load_model
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import GridState, SampleState
from fourm.training.checkpoints import newest_checkpoint
from fourm.training.loop import Loop
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.pretrain import PretrainConfig, PretrainTask, build_model, pretrain

BASE = {"dim": 128, "encoder_depth": 6, "decoder_depth": 2, "num_heads": 4}
GRIDS = ("rgb", "depth", "normal", "semseg")
NUM_VISIBLE, NUM_TARGETS = 128, 36
POINTS = 6  # of the curves


def jar(
    num_tokens: int,
    context: str = "latents+stem",
    iterations: int = 2,
    stem: int = 1,
    start: str = "pooled",
) -> dict[str, Any]:
    fusion = {
        "num_tokens": num_tokens,
        "iterations": iterations,
        "stem_layers": stem,
        "context": context,
        "start": start,
    }
    return {**BASE, "fusion": fusion}


MODELS: dict[str, dict[str, Any]] = {
    "plain": BASE,
    "shrunk": {**BASE, "encoder_depth": 3},
    "shrunk to 2 layers": {**BASE, "encoder_depth": 2},
    "jar-64": jar(64),
    "jar-32": jar(32),
    "jar-16": jar(16),
    "jar-32 1 iteration": jar(32, iterations=1),
    "jar-32 4 iterations": jar(32, iterations=4),
    "jar-64 latents alone": jar(64, "latents"),
    "jar-32 latents alone": jar(32, "latents"),
    "jar-16 latents alone": jar(16, "latents"),
    "jar-32 latents alone, learned start": jar(32, "latents", start="learned"),
}


def settings(
    project: Path, task: str, model: dict[str, Any], out: Path, steps: int, seed: int
) -> dict[str, Any]:
    described = read_yaml(project / "pretrain.yaml")
    grids = dict.fromkeys(GRIDS, 1.0)
    component: dict[str, Any] = {
        "weight": 1.0,
        "input": {**grids, "caption": 3.0},
        "target": grids,
        "keep": {"caption": "all"},
    }
    if task == "caption":
        component = {
            "weight": 1.0,
            "input": grids,
            "target": {"caption": 1.0},
            "keep": {"caption": "none"},
        }
    return {
        "out": str(out),
        "modalities": str(project / "modalities.yaml"),
        "tokenizers": str(project / "tokenizers"),
        "model": model,
        "data": {
            **described["data"],
            "sources": [{"tokens": str(project / "tokens"), "raw": str(project / "raw")}],
            "cache": str(project / "cache"),
        },
        "masking": {
            "num_inputs": [NUM_VISIBLE, NUM_VISIBLE],
            "num_targets": [NUM_TARGETS, NUM_TARGETS],
            "components": [component],
        },
        "loop": {
            "steps": steps,
            "batch_size": 16,
            "seed": seed,
            "optimizer": described["loop"]["optimizer"],
            "schedule": {"name": "wsd", "warmup": 30, "decay": 0.5},
            "num_workers": 0,
            "threads": 1,
            "checkpoint_every": steps,
            "log_every": 20,
            "eval_every": -(-steps // POINTS),
        },
        "eval_samples": 256,
    }


def generation_seconds(folder: Path, num: int = 8) -> float:
    """Seconds to draw semseg from rgb, depth and normal with 12 steps; the encoder reruns at
    each.
    """
    model = load_model(folder).eval()
    rng = np.random.default_rng(0)
    grids = {}
    for name in ("rgb", "depth", "normal"):
        m = model.modalities[name]
        grids[name] = GridState(
            rng.integers(0, m.vocab_size, (num, m.num_tokens)), np.ones((num, m.num_tokens), bool)
        )
    sampler, state = Sampler(model), SampleState(num, grids, {})
    best = 1e9
    for _ in range(3):
        started = time.perf_counter()
        sampler.generate(state, "semseg", SamplingOptions(steps=12), np.arange(num), [])
        best = min(best, time.perf_counter() - started)
    return best


def seconds_a_step(
    project: Path, task: str, model: dict[str, Any], scratch: Path, num: int = 12
) -> float:
    """The fastest of ``num`` training steps."""
    config = from_mapping(
        PretrainConfig, settings(project, task, model, scratch / "timing", num, 0), "benchmark"
    )
    modalities = ModalitySet.load(config.modalities)
    trainer = Loop(
        build_model(config, modalities).model,
        PretrainTask(config, modalities),
        config.loop,
        scratch / "timing",
    )
    best = float("inf")
    for batches in trainer._loader(range(num)):
        started = time.perf_counter()
        trainer._train_step(batches)
        best = min(best, time.perf_counter() - started)
    return best


def train_one(
    project: Path, task: str, name: str, steps: int, seed: int, scratch: Path
) -> list[float]:
    """Held-out losses after each of ``POINTS`` parts of a run; the last is the result."""
    folder = scratch / f"{name}-{seed}"
    config = from_mapping(
        PretrainConfig, settings(project, task, MODELS[name], folder, steps, seed), "benchmark"
    )
    pretrain(config)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [r["eval"]["loss"] for r in logged if "eval" in r]


def row_of(
    project: Path, task: str, name: str, curves: list[list[float]], steps: int, scratch: Path
) -> dict[str, Any]:
    c = from_mapping(ModelConfig, MODELS[name], "benchmark")
    words = 16 if task == "dense" else 0
    total = flops(c, NUM_VISIBLE - words, words, (NUM_TARGETS,)).total
    second, mean = seconds_a_step(project, task, MODELS[name], scratch), np.mean(curves, 0)
    at = [min(steps, -(-steps // POINTS) * (i + 1)) for i in range(len(mean))]
    row = {
        "loss": f"{mean[-1]:.4f} ± {np.std(curves, 0)[-1]:.4f}",
        "losses": [round(c[-1], 4) for c in curves],
        "encoder MFLOP": round(encoder_flops(c, NUM_VISIBLE - words, words) / 1e6, 1),
        "all MFLOP": round(total / 1e6, 1),
        "seconds a step": round(second, 4),
        "curve": [
            {
                "step": s,
                "training TFLOP": round(3 * 16 * s * total / 1e12, 3),
                "seconds": round(s * second),
                "loss": round(float(v), 4),
            }
            for s, v in zip(at, mean, strict=True)
        ],
    }
    if task == "dense":
        newest = newest_checkpoint(scratch / f"{name}-0" / "checkpoints")
        assert newest is not None
        row["generation seconds"] = round(generation_seconds(newest), 3)
    return row


def distil(project: Path, steps: int, scratch: Path) -> dict[str, float]:
    """Held-out losses of JAR encoders after half of ``steps``: afresh, and taught by a plain model
    of ``steps`` steps.
    """
    train_one(project, "dense", "plain", steps, 0, scratch)
    teacher = newest_checkpoint(scratch / "plain-0" / "checkpoints")
    found = {}
    for name in ("jar-32", "jar-32 latents alone"):
        for taught in (False, True):
            folder = scratch / f"{name}-{taught}"
            described = settings(project, "dense", MODELS[name], folder, steps // 2, 0)
            if taught:
                described["distill"] = {"teacher": str(teacher)}
            found[f"{name}, {'taught' if taught else 'afresh'}"] = pretrain(
                from_mapping(PretrainConfig, described, "benchmark")
            )["loss"]
    return {name: round(value, 4) for name, value in found.items()}


# ---- lookup --------------------------------------------------------------------------------------

CELLS, VALUES = 64, 16
_CELL = {
    "kind": "grid",
    "raw": {"type": "image", "size": 64},
    "vocab_size": VALUES,
    "grid": [8, 8],
}  # the same places on both sides
LOOKUP = {"cells": _CELL, "answer": _CELL}


def lookup(steps: int) -> dict[str, float]:
    """Accuracy of naming the value of one of 64 random cells by its number, after equal
    training.
    """
    from fourm.batches.batch import MASK_QUERY, MaskedBatch, StreamRows
    from fourm.model.model import FourM

    modalities = ModalitySet.from_mapping({"modalities": LOOKUP})

    def batch(rng: np.random.Generator, num: int) -> MaskedBatch:
        cells, asked = (
            rng.integers(0, VALUES, (num, CELLS)),
            np.stack([rng.permutation(CELLS)[:8] for _ in range(num)]),
        )
        given, wanted = StreamRows(num), StreamRows(num)
        sample, place = np.divmod(np.arange(num * CELLS), CELLS)
        given.add(0, sample, place, cells.reshape(-1))
        who = np.repeat(np.arange(num), 8)
        at = np.sort(asked, 1).reshape(-1)
        wanted.add(1, who, at, np.full(num * 8, MASK_QUERY), cells[who, at])
        return MaskedBatch(
            given.encoder(), wanted.decoder(np.array([False, False])), np.arange(num)
        )

    found = {}
    for name in ("plain", "jar-64", "jar-32", "jar-16", "jar-8"):
        torch.manual_seed(0)
        config = {
            **(BASE if name == "plain" else jar(int(name[4:]), "latents")),
            "dim": 64,
            "encoder_depth": 3,
        }
        model = FourM(from_mapping(ModelConfig, config, "lookup"), modalities)
        optimizers = build_optimizers(
            model, OptimizerConfig(name="muon", lr=3e-3, muon_lr=0.01, weight_decay=0.01)
        )
        peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        rng = np.random.default_rng(0)
        for step in range(steps):
            for optimizer, rates in zip(optimizers, peaks, strict=True):
                for group, peak in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = peak * min(1.0, (step + 1) / 50, 2 * (1 - step / steps))
            losses = model(batch(rng, 32))
            (losses.sums.sum() / losses.counts.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        held = batch(np.random.default_rng(1), 128)
        with torch.inference_mode():
            rows = model.decode(model.encode(held.encoder), held.decoder)
            found[name] = round(
                float(
                    (model.logits(rows, "answer").argmax(1) == held.decoder.target).float().mean()
                ),
                3,
            )
        print("lookup", name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--project", type=Path, default=Path("runs/demo"))
    parser.add_argument("--task", choices=("dense", "caption", "lookup", "distil"), default="dense")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", default=",".join(MODELS), help="these models alone, separated by commas"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_suffix(".json"),
        help="rows are added to what is there",
    )
    o = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    held = json.loads(o.out.read_text()) if o.out.is_file() else {}
    if o.task == "lookup":
        held["lookup"] = found = lookup(o.steps)
        met = (
            found["plain"] > 0.99
            and found["jar-64"] > 0.95
            and found["jar-64"] > found["jar-32"] > found["jar-8"]
        )
    elif o.task == "distil":
        with tempfile.TemporaryDirectory() as folder:
            held["distil"] = found = distil(o.project, o.steps, Path(folder))
        met = all(
            found[f"{n}, taught"] < found[f"{n}, afresh"]
            for n in ("jar-32", "jar-32 latents alone")
        )
    else:
        names = [name.strip() for name in o.only.split(",") if name.strip()]
        scratch = Path(tempfile.mkdtemp())
        section = held.setdefault(o.task, {})
        try:
            jobs = [
                (o.project, o.task, name, o.steps, seed, scratch)
                for name in names
                for seed in range(o.seeds)
            ]
            with ProcessPoolExecutor(
                os.cpu_count(), mp_context=get_context("spawn"), initializer=_quiet
            ) as pool:
                curves = list(pool.map(train_one, *zip(*jobs, strict=True)))
            for i, name in enumerate(names):  # timed one by one, when nothing else runs
                row = row_of(
                    o.project,
                    o.task,
                    name,
                    curves[i * o.seeds : (i + 1) * o.seeds],
                    o.steps,
                    scratch,
                )
                section[name] = {"steps": o.steps, **row}
                print(name, {k: v for k, v in row.items() if k != "curve"}, flush=True)
        finally:
            shutil.rmtree(scratch)
        met = bool(within_one_percent(section))
        held[f"{o.task}: a third fewer operations within 1 % of the loss of plain"] = (
            within_one_percent(section)
        )
    o.out.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    sys.exit(0 if met else 1)


def within_one_percent(rows: dict[str, Any]) -> list[str]:
    """JAR encoders with a third fewer operations than the plain one and a loss at most 1 % above
    its.
    """
    if "plain" not in rows:
        return []
    plain, most = rows["plain"], 1.01 * float(np.mean(rows["plain"]["losses"]))
    return [
        name
        for name, row in rows.items()
        if name.startswith("jar")
        and row["encoder MFLOP"] <= 0.67 * plain["encoder MFLOP"]
        and np.mean(row["losses"]) <= most
    ]


def _quiet() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
