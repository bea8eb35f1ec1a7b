"""Makes the fixture of a release: files as that release writes them, for its successors to read.

    git worktree add /tmp/release <commit>
    PYTHONPATH=/tmp/release:/tmp/release/tokenizers:/tmp/release/data_prep \\
        python tests/release_fixture.py tests/data/releases/<version>

A folder holds a tokenizer, the token shards that it made with their manifests, a pretraining run
stopped half way (``run/checkpoints``), and ``curve.json``: the losses of the same run to its end.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import yaml
from curves import JAR, LOOP, MODALITIES, PLAIN, PRETRAIN, SCHEDULE, _curve, _start, write_shards

STEPS, STOPPED_AT = 8, 4
OPTIMIZER = {"name": "adamw", "lr": 1e-2}


def modality_set() -> dict:
    """The recorder's modalities, with settings of the trained tokenizer in its entry."""
    train = {**LOOP, "steps": 2, "optimizer": {"name": "adamw"}, "schedule": {"warmup": 0}}
    entry = {"type": "autoencoder", "levels": [4, 3, 5], "patch_size": 4, "dim": 16, "num_heads": 2}
    modalities = json.loads(json.dumps(MODALITIES))
    modalities["modalities"]["rgb"]["tokenizer"] = {**entry, "train": train}
    return modalities


def rgb_alone() -> dict:
    """The one modality whose tokenizer is trained."""
    return {"modalities": {"rgb": modality_set()["modalities"]["rgb"]}}


def is_latent(release: Path) -> bool:
    """``<version>-latent``: a run with JAR's encoder and an average of the weights alone."""
    return release.name.endswith("-latent")


def pretrain_config(root: Path, out: Path, latent: bool) -> dict:
    """A run in ``out`` on the data and the modalities of ``root``."""
    loop = {**LOOP, "steps": STEPS, "checkpoint_every": STOPPED_AT, "optimizer": OPTIMIZER}
    return {
        **PRETRAIN,
        "model": JAR if latent else PLAIN,
        "out": str(out),
        "modalities": str(root / "modalities.yaml"),
        "data": {
            "sources": [{"tokens": str(root / "tokens"), "raw": str(root / "raw")}],
            "cache": str(root / "cache"),
        },
        "loop": {**loop, "schedule": SCHEDULE, "ema": 0.9 if latent else 0.0},
    }


def make_run(root: Path, out: Path) -> None:
    """A run stopped half way, and its curve to the end."""
    _start("fourm.training.pretrain", pretrain_config(root, root / "run", is_latent(out)), root)
    checkpoint = root / "run" / "checkpoints" / f"step_{STOPPED_AT:08d}"
    shutil.copytree(checkpoint, out / "run" / "checkpoints" / checkpoint.name)
    (out / "curve.json").write_text(json.dumps(_curve(root / "run")) + "\n")


def make_tokens(root: Path, out: Path) -> None:
    """A tokenizer and the token shards that it makes."""
    rgb, raw = rgb_alone(), ["--raw", str(root / "raw")]
    places = [*raw, "--out", str(root / "tokenizers"), "--cache", str(root / "cache")]
    _start("fourm_tokenizers.train", rgb, root, *places)
    places = [*raw, "--out", str(root / "made"), "--tokenizers", str(root / "tokenizers")]
    _start("fourm_data_prep.tokenize", rgb, root, *places)
    leave_out = shutil.ignore_patterns("training")
    shutil.copytree(root / "tokenizers" / "rgb", out / "tokenizers" / "rgb", ignore=leave_out)
    shutil.copytree(root / "made", out / "tokens")


def make(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_shards(root)
        (root / "modalities.yaml").write_text(yaml.safe_dump(modality_set(), sort_keys=False))
        make_run(root, out)
        if not is_latent(out):
            make_tokens(root, out)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
