"""Recorded tensors of the reference implementation of 4M, and comparisons with them."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

RELATIVE_TOLERANCE = 1e-4
# Several denoising steps amplify rounding: evaluated in float64, the network is 1.4e-5 away from a
# recorded single run and 1.0e-4 away
# from recorded pictures after five steps, so the recordings' own rounding is already as large as
# the tolerance of single runs.
SAMPLED_TOLERANCE = 3e-4


@dataclass(frozen=True)
class Comparison:
    """One compared tensor."""

    name: str
    difference: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.difference <= self.tolerance


def compare(
    name: str, ours: Tensor | float, theirs: Tensor | float, tolerance: float = RELATIVE_TOLERANCE
) -> Comparison:
    """Floats within ``tolerance`` of the largest number; integers exactly; other shapes never."""
    a, b = torch.as_tensor(ours).detach(), torch.as_tensor(theirs)
    if a.shape != b.shape:
        return Comparison(
            f"{name} (shape {list(a.shape)} instead of {list(b.shape)})", float("inf"), 0.0
        )
    if not b.numel():
        return Comparison(name, 0.0, 0.0)
    a, b = a.double(), b.double() if b.is_floating_point() else b
    if not b.is_floating_point():
        return Comparison(name, (a - b.double()).abs().max().item(), 0.0)
    return Comparison(
        name, (a - b).abs().max().item(), tolerance * b.abs().max().clamp_min(1e-6).item()
    )


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """``name.safetensors`` of a folder, packed or not."""
    packed, plain = folder / f"{name}.safetensors.xz", folder / f"{name}.safetensors"
    return safetensors.torch.load(
        lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    )


def unpacked(folder: Path, into: Path) -> Path:
    """A copy of a model folder as the reference writes it: ``config.json`` and
    ``model.safetensors``.
    """
    packed, plain = folder / "model.safetensors.xz", folder / "model.safetensors"
    (into / "model.safetensors").write_bytes(
        lzma.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    )
    if (folder / "config.json").is_file():
        (into / "config.json").write_bytes((folder / "config.json").read_bytes())
    return into
