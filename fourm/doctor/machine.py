"""What a training finds on this machine, and why not what it does not find."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass

import torch

from fourm.files.model_memory import machine_bytes
from fourm.model.attention import BACKENDS, why_not
from fourm.training.compiled import missing_for_compiling
from fourm.training.device import peak_flops
from fourm.training.speed import GIB

_PACKAGES = ("fourm", "torch", "accelerate", "numpy", "safetensors", "xformers", "triton")


@dataclass(frozen=True)
class Check:
    """One line: what was looked for, what was found, and why it is not otherwise."""

    name: str
    found: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name:<22} {self.found}" + (f" ({self.why})" if self.why else "")


def examine() -> list[Check]:
    """All checks of this machine, in the order in which they matter."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = "bf16" if device.type == "cuda" else "no"
    return [
        *_devices(device),
        Check("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        Check("precision", *_precision(device)),
        *_attention(device, precision),
        Check("compile", *_compiler(device)),
        *_versions(),
    ]


def memory_bytes(device: torch.device) -> int:
    """Of one GPU, or of the whole machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return machine_bytes()


def _devices(device: torch.device) -> list[Check]:
    memory = f"{memory_bytes(device) / GIB:.1f} GiB"
    if device.type == "cuda":
        num = torch.cuda.device_count()
        names = f"{num} x {torch.cuda.get_device_name(device)}, {memory} each"
    else:
        names = f"CPU ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), {memory}"
    checks = [Check("device", names, "" if device.type == "cuda" else "torch sees no CUDA device")]
    for precision in ("bf16", "no"):
        peak = peak_flops(device, precision)
        if peak is not None:
            said = "its maker's figure" if device.type == "cuda" else "measured, all threads"
            kind = "bfloat16" if precision == "bf16" else "float32"
            checks.append(Check(f"peak, {kind}", f"{peak / 1e12:.3g} TFLOP/s", said))
    return checks


def _precision(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16 or no", ""
        return "no", "this GPU has no bfloat16"
    return "no", "bf16 runs on a CPU, but most are no faster with it"


def _attention(device: torch.device, precision: str) -> list[Check]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # the first two run anywhere
    reasons = {name: why_not(name, device.type, dtype) for name in BACKENDS[2:]}
    runs = "varlen" if not reasons["varlen"] else "sdpa"
    others = [Check(f"  {name}", "no", reason) for name, reason in reasons.items() if reason]
    return [Check("attention", runs), *others]


def _compiler(device: torch.device) -> tuple[str, str]:
    """Whether ``loop.compile`` has what it needs; nothing is compiled."""
    missing = missing_for_compiling(device)
    return ("no", f"{missing} is missing") if missing else ("yes", "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[Check]:
    checks = [Check("python", platform.python_version())]
    if torch.version.cuda is not None:
        checks.append(Check("cuda", torch.version.cuda))
    return checks + [Check(p, v) for p in _PACKAGES if (v := _version(p)) is not None]
