"""Do the alignment methods do what their papers say, in miniature? Emoji in five styles, frozen
EfficientNet-Lite and MiniLM latents.

    python examples/emoji_styles.py runs/styles/pictures         (once)
    bash examples/style_latents.sh runs/styles                   (once: caches their latents)
    python benchmarks/alignment.py fusemix|altmoe|unimos [--root runs/styles] [--seeds 3]

Splits are by subject and seed; settings were chosen on the validation subjects of seed 100, which
no table uses; figures are of the test subjects. Writes ``alignment_<part>.json``; exit status 0
where the claims named in the output hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fourm_data_prep.labellers import open_labeller
from fourm_data_prep.samples import Samples

from fourm.alignment.adapt import accuracy, adapt
from fourm.alignment.align import AlignTask, align, figures_on_test, load_aligner
from fourm.alignment.aligner import AlignConfig, gradient_cosines
from fourm.alignment.domains import read_classes
from fourm.alignment.latents import open_latents, write_latents
from fourm.alignment.pairs import batch_of
from fourm.alignment.unimos import AdaptConfig
from fourm.config import from_mapping
from fourm.raw.vectors import Vectors

OPTIMIZER = {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.999], "clip": 1.0}
Rows = dict[str, list[dict[str, float]]]


def loop(steps: int, batch: int, seed: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "batch_size": batch,
        "seed": seed,
        "optimizer": OPTIMIZER,
        "schedule": {"name": "cosine", "warmup": 50},
        "num_workers": 0,
        "threads": 1,
        "checkpoint_every": 10**6,
        "log_every": 100,
    }


def run_align(scratch: Path, **values: Any) -> Path:
    out = Path(tempfile.mkdtemp(dir=scratch))
    align(from_mapping(AlignConfig, {"out": str(out), **values}, "benchmark"))
    return out


def _alone() -> None:
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def run_all(scratch: Path, plans: list[dict[str, Any]]) -> list[Path]:
    """Alignments, each on one core, as many at a time as there are."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), _alone) as pool:
        return [
            future.result()
            for future in [pool.submit(run_align, scratch, **values) for values in plans]
        ]


def table(rows: Rows) -> dict[str, dict[str, str]]:
    """Mean and deviation of each figure over the seeds."""
    return {
        name: {figure: per_cent([run[figure] for run in runs]) for figure in runs[0]}
        for name, runs in rows.items()
    }


def per_cent(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values):.1f}"


def mean(rows: Rows, name: str, figure: str) -> float:
    return float(np.mean([r[figure] for r in rows[name]]))


# ---- FuseMix -------------------------------------------------------------------------------------

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {"mixup": "none"},
    "independent": {"mixup": "independent"},
    "noise": {"mixup": "none", "noise": 0.5},
    "shared": {"mixup": "shared"},
    "shared, per sample": {"mixup": "shared", "per": "sample"},
    "shared and noise": {"mixup": "shared", "noise": 0.5},
}


def fusemix_settings(root: Path, pairs: int, seed: int, augment: dict[str, Any]) -> dict[str, Any]:
    return {
        "latents": {
            "image": str(root / "latents" / "google"),
            "text": str(root / "latents" / "caption"),
        },
        "split": {"num_train": pairs, "num_val": 136, "num_test": 400, "seed": seed},
        "prepare": {"center": True, "unit": True, "pca": 192},
        "connect": {"kind": "heads", "depth": 1, "expand": 2, "dropout": 0.3, "dim_out": 192},
        "augment": augment,
        "loop": loop(500, 256, seed),
    }


def fusemix(root: Path, seeds: int, scratch: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    rows: Rows = {}
    plans = [
        (pairs, name, seed)
        for pairs in (300, 1200)
        for name in AUGMENTATIONS
        for seed in range(seeds)
    ]
    runs = run_all(
        scratch,
        [fusemix_settings(root, pairs, seed, AUGMENTATIONS[name]) for pairs, name, seed in plans],
    )
    for (pairs, name, _), out in zip(plans, runs, strict=True):
        figures = figures_on_test(out)
        rows.setdefault(f"{pairs}, {name}", []).append({k: figures[k] for k in ("R@1", "R@10")})
    for choose in ("random", "diverse"):  # which 300 of the others are labelled
        settings = [
            fusemix_settings(root, 300, seed, AUGMENTATIONS["shared and noise"])
            for seed in range(seeds)
        ]
        for out in run_all(
            scratch, [{**s, "split": {**s["split"], "choose": choose}} for s in settings]
        ):
            figures = figures_on_test(out)
            rows.setdefault(f"300 {choose} pairs, shared and noise", []).append(
                {k: figures[k] for k in ("R@1", "R@10")}
            )
    shared, best = (mean(rows, f"1200, {n}", "R@10") for n in ("shared", "shared and noise"))
    others = {n: mean(rows, f"1200, {n}", "R@10") for n in ("none", "independent", "noise")}
    claims = {
        "shared lambda at least none and independent, 1,200 pairs, R@10": shared
        >= max(others["none"], others["independent"]),
        "shared lambda and noise above all baselines, 1,200 pairs, R@10": best
        > max(others.values()),
    }
    return {"rows": table(rows)}, claims


# ---- Alt-MoE -------------------------------------------------------------------------------------

PASSES = 1200  # batches x directions of every row


def altmoe_settings(
    root: Path, seed: int, kind: str, schedule: str, balance: float
) -> dict[str, Any]:
    hidden = {
        "hidden": 160,
        "num_experts": 6,
        "top_k": 2,
        "dim_out": 160,
        "dropout": 0.1,
        "balance": balance,
    }
    return {
        "latents": {
            name: str(root / "latents" / folder)
            for name, folder in (("image", "google"), ("line", "line"), ("text", "caption"))
        },
        "split": {"num_train": 1200, "num_val": 136, "num_test": 400, "seed": seed},
        "prepare": {"center": True, "unit": True, "pca": 160},
        "connect": {"kind": kind, **hidden},
        "tasks": {"schedule": schedule, "regression": 0.5},
        "loop": loop(PASSES // (6 if schedule == "joint" else 1), 256, seed),
    }


def altmoe(root: Path, seeds: int, scratch: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    rows: Rows = {}
    entropy: dict[str, list[float]] = {}
    cosines: list[dict[str, float]] = []
    plans = [
        ("experts, joint", "experts", "joint", 0.0),
        ("experts, round robin", "experts", "round_robin", 0.0),
        ("experts, adaptive", "experts", "adaptive", 0.0),
        ("experts, joint, balanced", "experts", "joint", 0.01),
        ("dense, joint", "dense", "joint", 0.0),
        ("dense, round robin", "dense", "round_robin", 0.0),
    ]
    runs = iter(
        run_all(
            scratch,
            [altmoe_settings(root, seed, *plan[1:]) for plan in plans for seed in range(seeds)],
        )
    )
    for name, kind, _, _ in plans:
        for _ in range(seeds):
            out = next(runs)
            figures = figures_on_test(out)
            rows.setdefault(name, []).append({k: figures[k] for k in ("R@1", "R@10")})
            logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            entropy.setdefault(name, []).append(
                [r["expert_entropy"] for r in logged if "expert_entropy" in r][-1]
                if kind == "experts"
                else 0
            )
            if name == "experts, joint":
                model = load_aligner(out).requires_grad_(True)
                task = AlignTask(model.config)
                cosines.append(
                    gradient_cosines(
                        model, batch_of(list(task.latents.values()), task.split.train[:256])
                    )
                )
    result = {
        "rows": table(rows),
        "passes of each row": PASSES,
        "expert entropy": {n: round(float(np.mean(v)), 3) for n, v in entropy.items()},
        "gradient cosines": {
            pair: round(float(np.mean([c[pair] for c in cosines])), 3) for pair in cosines[0]
        },
    }
    claims = {  # which way they fall is published, not asserted
        "experts above dense, joint, R@10": mean(rows, "experts, joint", "R@10")
        > mean(rows, "dense, joint", "R@10"),
        "round robin above joint, experts, R@10": mean(rows, "experts, round robin", "R@10")
        > mean(rows, "experts, joint", "R@10"),
    }
    return {**result, "hypotheses": claims}, {"all rows ran": len(rows) == len(plans)}


# ---- UniMoS --------------------------------------------------------------------------------------

STYLES = ("fluent", "google", "twemoji", "openmoji", "line")
SHIFTS = (("fluent", "twemoji"), ("openmoji", "line"))
METHODS: dict[str, dict[str, Any]] = {
    "source only": {"method": "source_only"},
    "UniMoS": {},
    "fixed weight": {"learn_weight": False},
    "no discriminator": {"discriminator": False},
    "no orthogonality": {"orthogonality": False},
    "no pseudo-labels": {"pseudo_labels": False},
}
PER_CLASS, SMALLEST_CLASS = 5, 18


def mini_clip(root: Path, seed: int, scratch: Path) -> Path:
    """Heads that put pictures of all styles and names into one space: names alone, no classes.
    Stands for web-scale pre-training.
    """
    folder = scratch / f"all-{seed}"
    held = {style: open_latents(root / "latents" / style) for style in STYLES}
    text = open_latents(root / "latents" / "caption")
    keys = [f"{key}~{style}" for style in STYLES for key in text.keys]
    shared = {"keys": keys, "groups": text.keys * len(STYLES), "fingerprint": "all styles"}
    pictures = np.concatenate([np.asarray(held[style].vectors) for style in STYLES])
    write_latents(folder / "image", pictures, encoder="efficientnet", modality="rgb", **shared)
    write_latents(
        folder / "text",
        np.tile(np.asarray(text.vectors), (len(STYLES), 1)),
        encoder="minilm",
        modality="caption",
        **shared,
    )
    return run_align(
        scratch,
        **{
            "latents": {"image": str(folder / "image"), "text": str(folder / "text")},
            "split": {"num_val": 20, "num_test": 20, "seed": seed},
            "prepare": {"center": True, "unit": True, "pca": 192},
            "augment": {"mixup": "shared", "noise": 0.5},
            "connect": {"kind": "heads", "depth": 1, "expand": 2, "dropout": 0.3, "dim_out": 128},
            "loop": loop(1200, 256, seed),
        },
    )


def unimos(root: Path, seeds: int, scratch: Path) -> tuple[dict[str, Any], dict[str, bool]]:
    rows: Rows = {}
    classes_of = read_classes(root / "pictures" / "fluent" / "captions.csv")
    names, counts = np.unique(list(classes_of.values()), return_counts=True)
    classes = [str(n) for n, c in zip(names, counts, strict=True) if c >= SMALLEST_CLASS]
    lines = [f"an emoji of {name.replace('-', ' ')}" for name in classes]
    prompts = np.concatenate(open_labeller("minilm")(Samples([], lines), Vectors(channels=384)))
    for seed in range(seeds):
        model = load_aligner(mini_clip(root, seed, scratch))

        def embedded(name: str, vectors: np.ndarray, model: Any = model) -> np.ndarray:
            with torch.no_grad():
                return F.normalize(
                    model.embed(name, torch.from_numpy(vectors).float()), dim=-1
                ).numpy()

        here = scratch / f"domains-{seed}"
        about = {"encoder": "mini-clip", "fingerprint": str(seed), "modality": "rgb"}
        write_latents(here / "prompts", embedded("text", prompts), classes, **about)
        subjects = [
            key
            for key in open_latents(root / "latents" / "fluent").keys
            if classes_of.get(key) in classes
        ]
        halves = np.random.default_rng(seed).permutation(len(subjects)) % 2
        for source, target in SHIFTS:
            for style, half, place in (
                (source, 0, "source"),
                (target, 1, "target"),
                (target, 0, "supervised"),
            ):
                held = open_latents(root / "latents" / style)
                number = {key: i for i, key in enumerate(held.keys)}
                keys = [key for key, h in zip(subjects, halves, strict=True) if h == half]
                rows_of = held.rows(np.array([number[key] for key in keys]))
                write_latents(here / place, embedded("image", rows_of), keys, **about)
            labels = str(root / "pictures" / "fluent" / "captions.csv")
            shift = f"{source} > {target}"
            for name, method in {**METHODS, "target supervised": {"method": "source_only"}}.items():
                out = Path(tempfile.mkdtemp(dir=scratch))
                place = "supervised" if name == "target supervised" else "source"
                phases = (
                    2 if name not in ("source only", "target supervised", "no discriminator") else 1
                )
                values = {
                    "out": str(out),
                    "source": str(here / place),
                    "target": str(here / "target"),
                    "prompts": str(here / "prompts"),
                    "labels": labels,
                    "labels_per_class": PER_CLASS,
                    "temperature": float(model.temperature()),
                    **method,
                    "loop": {
                        **loop(300 * phases, 32, seed),
                        "optimizer": {**OPTIMIZER, "lr": 1e-3, "weight_decay": 0.0},
                    },
                }
                adapt(from_mapping(AdaptConfig, values, "benchmark"))
                found = accuracy(out, labels)
                rows.setdefault(f"{shift}: {name}", []).append({"accuracy": found["accuracy"]})
                if name == "UniMoS":
                    rows.setdefault(f"{shift}: zero-shot", []).append(
                        {"accuracy": found["zero_shot"]}
                    )
    claims = {}
    for source, target in SHIFTS:
        shift = f"{source} > {target}"
        ours = mean(rows, f"{shift}: UniMoS", "accuracy")
        claims[f"{shift}: UniMoS above zero-shot and source-only"] = ours > max(
            mean(rows, f"{shift}: {n}", "accuracy") for n in ("zero-shot", "source only")
        )
    return {"rows": table(rows), "classes": len(classes), "labels per class": PER_CLASS}, claims


PARTS: dict[str, Callable[[Path, int, Path], tuple[dict[str, Any], dict[str, bool]]]] = {
    "fusemix": fusemix,
    "altmoe": altmoe,
    "unimos": unimos,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--root", type=Path, default=Path("runs/styles"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    o = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    started, scratch = time.perf_counter(), Path(tempfile.mkdtemp())
    try:
        result, claims = PARTS[o.part](o.root, o.seeds, scratch)
    finally:
        shutil.rmtree(scratch)
    result = {
        **result,
        "claims": claims,
        "seeds": o.seeds,
        "seconds": round(time.perf_counter() - started),
    }
    path = o.out or Path(__file__).with_name(f"alignment_{o.part}.json")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))
    sys.exit(0 if all(claims.values()) else 1)


if __name__ == "__main__":
    main()
