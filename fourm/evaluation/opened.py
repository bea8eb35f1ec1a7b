"""A model that is to be judged or used: where it lies, on which device, and what tells it from
others.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from fourm.records.hub import find_model
from fourm.training.checkpoints import sha256

_DESCRIBES = (".safetensors", ".json", ".yaml")  # files of a model that decide what it says
_FIGURES = "provenance.json"  # and one that does not


def model_folder(model: str | Path) -> Path:
    """A pipeline folder; that of a project is inside it."""
    inner = Path(model, "model")
    return inner if (inner / "config.json").is_file() else find_model(model)


def device() -> str:
    """This rank's GPU, unless there is none or accelerate is told to use CPUs."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if on_cpu or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


def model_digest(folder: Path, out: Path) -> str:
    """Of all files that decide what a model says; ``out`` may lie in its folder and is not read."""
    described = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _DESCRIBES
        and path.name != _FIGURES
        and not path.resolve().is_relative_to(out.resolve())
    )
    digests = [f"{path.relative_to(folder)} {sha256(path)}" for path in described]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
