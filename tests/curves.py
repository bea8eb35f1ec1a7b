"""Records loss curves of small trainings, to tell whether a change of structure changed what is
computed.

    python tests/curves.py OUT.json

Four pretrainings (AdamW and Muon, plain and with JAR's encoder), two tokenizers, two alignments:
float32, one thread. The data are random numbers written as files, and every training is started
through the door that configs and scripts of the first releases use, so that one recorder runs on
any commit (``benchmarks/same_curve.py``).
"""

import importlib
import io
import json
import platform
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

NUM, NUM_HELD_OUT = 48, 8
LOOP = {"batch_size": 8, "log_every": 1, "num_workers": 0, "threads": 1, "checkpoint_every": 100}
SCHEDULE = {"warmup": 4}

MODALITIES = {
    "tokenizers": {"text": {"type": "text", "vocab_size": 200, "num_sentinels": 16}},
    "modalities": {
        "rgb": {
            "kind": "grid",
            "raw": {"type": "image", "size": 16},
            "tokenizer": {"type": "autoencoder", "levels": [4, 3, 5], "patch_size": 4},
        },
        "pixels": {"kind": "continuous", "source": "rgb", "patch_size": 4},
        "depth": {
            "kind": "grid",
            "raw": {"type": "depth", "size": 16},
            "vocab_size": 24,
            "grid": [4, 4],
        },
        "code": {
            "kind": "set",
            "raw": {"type": "array", "size": 4, "channels": 2},
            "vocab_size": 32,
            "max_tokens": 6,
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
    "masking": {
        "num_inputs": [4, 24],
        "num_targets": [4, 24],
        "components": [
            {"input_default": 0.5, "target_default": 0.5},
            {"input": {"pixels": 100}, "target_default": 0.5, "keep": {"caption": "all"}},
        ],
    },
    "eval_samples": NUM_HELD_OUT,
}
PLAIN = {"dim": 16, "encoder_depth": 2, "decoder_depth": 1, "num_heads": 2}
JAR = {**PLAIN, "fusion": {"num_tokens": 4, "iterations": 1, "context": "latents+stem"}}

TOKENIZERS = {
    "fsq_vit": {"levels": [4, 3, 5], "encoder": "vit", "decoder": "vit", "detail_weight": 2.0},
    "vq_conv": {
        "quantizer": {"type": "vq", "codebook_size": 16, "code_dim": 4},
        "encoder": "conv",
        "decoder": "conv",
    },
}

ALIGNMENTS = {
    "fusemix": {
        "prepare": {"center": True, "unit": True, "pca": 8},
        "connect": {"kind": "heads", "depth": 1, "expand": 2, "dropout": 0.1, "dim_out": 8},
        "augment": {"mixup": "shared", "noise": 0.2},
    },
    "altmoe": {
        "connect": {"kind": "experts", "hidden": 16, "dim_out": 8, "num_experts": 4, "top_k": 2},
    },
}


def machine() -> dict[str, str]:
    """What bits may depend on: the processor's family and the library that computes."""
    import torch

    fields: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.is_file() else ():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    family = [fields.get(name, "") for name in ("vendor_id", "cpu family", "model")]
    return {
        "cpu": " ".join(family).strip() or platform.processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


# ---- data, as files ------------------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def _write_shard(folder: Path, extension: str, members: list[bytes]) -> None:
    folder.mkdir(parents=True)
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for i, data in enumerate(members):
            info = tarfile.TarInfo(f"{i:08d}.{extension}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_shards(root: Path) -> None:
    """Raw pictures with a pattern in them and random tokens of which some follow from others."""
    rng = np.random.default_rng(0)
    for split, num in (("train", NUM), ("val", NUM_HELD_OUT)):
        colors = rng.integers(0, 256, (num, 2, 1, 1, 3))
        stripes = (np.arange(16) // 4 % 2)[None, :, None, None]
        pictures = np.where(stripes == 0, colors[:, 0], colors[:, 1]).repeat(16, 2).astype(np.uint8)
        _write_shard(root / "raw" / split / "rgb", "png", [_png(p) for p in pictures])
        cause = rng.integers(0, 24, (num, 1))
        tokens = {
            "rgb": (cause * 2 + np.arange(16) % 3) % 60,
            "depth": np.tile(cause, (1, 16)),
            "code": rng.integers(0, 32, (num, 6)),
            "caption": 40 + (cause + rng.integers(0, 6, (num, 12))),
        }
        for name, ids in tokens.items():
            members = [_npy(row.astype(np.uint16)) for row in ids]
            _write_shard(root / "tokens" / split / name, "npy", members)


def write_latents(root: Path) -> dict[str, str]:
    """Two views of the same few causes, in the format of cached latents."""
    rng = np.random.default_rng(1)
    causes = rng.normal(size=(96, 6))
    keys = [f"k{i}" for i in range(len(causes))]
    paths = {}
    for name, width in (("image", 16), ("text", 12)):
        values = causes @ rng.normal(size=(6, width)) + 0.1 * rng.normal(size=(len(causes), width))
        folder = root / "latents" / name
        folder.mkdir(parents=True)
        np.save(folder / "vectors.npy", values.astype(np.float32), allow_pickle=False)
        (folder / "keys.txt").write_text("".join(f"{key}\n" for key in keys))
        about = {
            "encoder": "made",
            "fingerprint": "f",
            "modality": name,
            "dim": width,
            "num": len(keys),
            "keys": sha256("\n".join(keys).encode()).hexdigest()[:16],
        }
        (folder / "latents.json").write_text(json.dumps(about))
        paths[name] = str(folder)
    return paths


# ---- trainings -----------------------------------------------------------------------------------


def _start(module: str, config: dict[str, Any], folder: Path, *arguments: str) -> None:
    path = folder / f"{sha256(json.dumps(config).encode()).hexdigest()[:12]}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    importlib.import_module(module).main(["--config", str(path), *arguments])


def _curve(folder: Path) -> list[float]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def record(root: Path) -> dict[str, list[float]]:
    """Train everything in ``root``; name -> loss of each step."""
    import torch

    torch.set_num_threads(1)
    write_shards(root)
    (root / "modalities.yaml").write_text(yaml.safe_dump(MODALITIES, sort_keys=False))
    curves = {}
    for optimizer in ("adamw", "muon"):
        for encoder, model in (("plain", PLAIN), ("jar", JAR)):
            name = f"pretrain-{encoder}-{optimizer}"
            settings = {"name": optimizer, "lr": 1e-2, "muon_lr": 0.02}
            config = {
                **PRETRAIN,
                "model": model,
                "out": str(root / name),
                "modalities": str(root / "modalities.yaml"),
                "data": {
                    "sources": [{"tokens": str(root / "tokens"), "raw": str(root / "raw")}],
                    "cache": str(root / "cache"),
                },
                "loop": {**LOOP, "steps": 40, "optimizer": settings, "schedule": SCHEDULE},
            }
            _start("fourm.training.pretrain", config, root)
            curves[name] = _curve(root / name)
    for name, network in TOKENIZERS.items():
        settings = {"name": "muon", "lr": 2e-3, "muon_lr": 0.01}
        train = {**LOOP, "steps": 12, "optimizer": settings, "schedule": SCHEDULE}
        entry = {"type": "autoencoder", "patch_size": 4, "dim": 16, "num_heads": 2, **network}
        raw = {"type": "image", "size": 16}
        modality = {"kind": "grid", "raw": raw, "tokenizer": {**entry, "train": train}}
        out = root / "tokenizers" / name
        config = {"modalities": {"rgb": modality}, "raw": str(root / "raw"), "out": str(out)}
        _start("fourm_tokenizers.train", config, root, "--cache", str(root / "cache"))
        curves[f"tokenizer-{name}"] = _curve(out / "rgb" / "training")
    latents = write_latents(root)
    for name, settings in ALIGNMENTS.items():
        loop = {**LOOP, "batch_size": 24, "steps": 16, "optimizer": {"lr": 3e-3}}
        out = root / f"align-{name}"
        split = {"num_val": 12, "num_test": 12}
        config = {"out": str(out), "latents": latents, "split": split, "loop": loop, **settings}
        _start("fourm.fusion.align", config, root)
        curves[f"align-{name}"] = _curve(out)
    return curves


def main(out: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        curves = record(Path(folder))
    described = {"machine": machine(), "curves": curves}
    Path(out).write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
