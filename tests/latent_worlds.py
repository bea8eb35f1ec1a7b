"""Small latents on disk for tests of alignment: views of shared causes to align, and two domains to
adapt between.
"""

from pathlib import Path

import numpy as np

from fourm.alignment.aligner import AlignConfig
from fourm.alignment.latents import write_latents
from fourm.alignment.unimos import AdaptConfig
from fourm.config import from_mapping

ABOUT = {"encoder": "test", "fingerprint": "f", "modality": "rgb"}


def world(folder: Path, num: int = 160, seed: int = 0) -> dict[str, str]:
    """Three modalities that are linear views of the same 6 causes, with noise: alignment can be
    learned.
    """
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(num, 6))
    paths = {}
    for name, width in (("image", 24), ("text", 16), ("sound", 12)):
        values = causes @ np.random.default_rng(len(name)).normal(
            size=(6, width)
        ) + 0.1 * rng.normal(size=(num, width))
        write_latents(
            folder / name, values.astype(np.float32), [f"k{i}" for i in range(num)], **ABOUT
        )
        paths[name] = str(folder / name)
    return paths


def settings(tmp_path, latents, **changes):
    base = {
        "out": str(tmp_path / "run"),
        "latents": latents,
        "split": {"num_val": 20, "num_test": 40},
        "connect": {
            "depth": 1,
            "expand": 2,
            "dropout": 0.0,
            "dim_out": 8,
            "hidden": 16,
            "num_experts": 4,
            "top_k": 2,
        },
        "loop": {
            "steps": 60,
            "batch_size": 32,
            "optimizer": {"lr": 5e-3},
            "num_workers": 0,
            "threads": 1,
            "checkpoint_every": 20,
            "keep_checkpoints": 9,
            "schedule": {"warmup": 5},
        },
    }
    return from_mapping(AlignConfig, {**base, **changes}, "test")


def domains(folder: Path, seed: int = 0) -> dict[str, str]:
    """Four classes on a sphere; the target is turned and noisier; prompts lie near the classes, not
    on them.
    """
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(4, 16))
    shift = 0.9 * rng.normal(size=16)
    lines = ["key,class"]
    for place, num, move in (("source", 80, 0.0), ("target", 120, 1.0)):
        classes = rng.integers(0, 4, num)
        rows = centers[classes] + 0.8 * rng.normal(size=(num, 16)) + move * shift
        keys = [f"{place}{i}" for i in range(num)]
        write_latents(folder / place, rows.astype(np.float32), keys, **ABOUT)
        lines += [f"{k},c{c}" for k, c in zip(keys, classes, strict=True)]
    write_latents(
        folder / "prompts",
        (centers + 0.6 * rng.normal(size=(4, 16))).astype(np.float32),
        [f"c{i}" for i in range(4)],
        **ABOUT,
    )
    (folder / "labels.csv").parent.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return {name: str(folder / name) for name in ("source", "target", "prompts")} | {
        "labels": str(folder / "labels.csv")
    }


def adaptation(tmp_path, places, **changes):
    loop = {
        "steps": 120,
        "batch_size": 16,
        "optimizer": {"lr": 2e-3},
        "num_workers": 0,
        "threads": 1,
        "checkpoint_every": 30,
        "keep_checkpoints": 9,
        "schedule": {"warmup": 5},
    }
    return from_mapping(
        AdaptConfig,
        {
            "out": str(tmp_path / "run"),
            **places,
            "labels_per_class": 5,
            "temperature": 0.1,
            "loop": loop,
            **changes,
        },
        "test",
    )
