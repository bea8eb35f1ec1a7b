"""What a device can do: its peak of floating-point operations, and how much memory was in use."""

from __future__ import annotations

import resource
import sys
import time
from functools import cache

import torch

# (bfloat16, float32) in 10^12 operations a second: dense, of the makers' data sheets; float32
# without TF32, as torch multiplies unless told otherwise. The first name that fits counts.
_PEAKS = {
    "B200": (2250, 80),
    "GH200": (989, 67),
    "H200 NVL": (835, 60),
    "H200": (989, 67),
    "H100 PCIe": (756, 51),
    "H100 NVL": (835, 60),
    "H100": (989, 67),
    "H800": (989, 67),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "A40": (149.7, 37.4),
    "A10G": (70, 35),
    "A10": (125, 31.2),
    "A6000": (154.8, 38.7),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71, 35.6),
}
_SIDE = 512  # of the matrices that a CPU is measured with


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that a device could do in matrix products; None if it is not known.

    A GPU's is its maker's figure, a CPU's that of one float32 product, measured once.
    """
    if device.type == "cuda":
        return known_peak(torch.cuda.get_device_name(device), precision)
    if device.type == "cpu" and precision == "no":
        return _measured(torch.get_num_threads())
    return None


def known_peak(name: str, precision: str) -> float | None:
    """The data sheet's figure for a GPU by the name that it gives itself."""
    for known, peaks in _PEAKS.items():
        if known.lower() in name.lower():
            return peaks[precision == "no"] * 1e12
    return None


@cache
def _measured(num_threads: int) -> float:
    """The best of a few products on this many threads: 0.05 s."""
    a, product = torch.ones(_SIDE, _SIDE), torch.empty(_SIDE, _SIDE)
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        torch.mm(a, a, out=product)
        seconds.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / min(seconds)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: of a GPU what torch allocated, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux says it in KiB
