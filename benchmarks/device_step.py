"""A training step on a device, as ``fourm.training.loop.Loop`` does it in bf16: how many samples
fit, how long they take, where the host waits for the device.
"""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from stages import Peak
from workload import Step, Workload, useful_tokens

from fourm.batches.batch import MaskedBatch
from fourm.model.objectives import CrossEntropy, Objective
from fourm.training.device import known_peak

# 10^12 bytes of memory a second, by data sheet; the first name that fits
_MEMORY = {
    "H200": 4.8,
    "H100 PCIe": 2.0,
    "H100": 3.35,
    "B200": 8.0,
    "A100-SXM4-80GB": 2.04,
    "A100": 1.56,
    "L40S": 0.86,
    "L4": 0.3,
    "RTX 4090": 1.01,
}


@dataclass(frozen=True)
class Settings:
    """How steps are measured."""

    device: torch.device
    samples: int  # of a step
    largest: int  # micro-batch that is tried first
    repeats: int
    backend: str  # of torch.compile

    @property
    def is_cuda(self) -> bool:
        """False where the path is only tried."""
        return self.device.type == "cuda"


def seconds_of(action: Callable[[], Any], device: torch.device) -> float:
    """Time of one action, on the device's clock."""
    if device.type != "cuda":
        started = time.perf_counter()
        action()
        return time.perf_counter() - started
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    action()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1e3


def peak_of(settings: Settings) -> Peak:
    """The device's peak: by data sheet, or as measured by one large product and one large copy."""
    name = torch.cuda.get_device_name(settings.device) if settings.is_cuda else ""
    operations = known_peak(name, "bf16")
    moved = next((rate for known, rate in _MEMORY.items() if known in name), None)
    if operations is not None and moved is not None:
        return Peak(operations, moved * 1e12, "data sheet")
    side = 8192 if settings.is_cuda else 256
    a = torch.randn(side, side, device=settings.device, dtype=torch.bfloat16)
    other = torch.empty_like(a)
    product = min(seconds_of(lambda: a @ a, settings.device) for _ in range(5))
    copy = min(seconds_of(lambda: other.copy_(a), settings.device) for _ in range(5))
    return Peak(2 * side**3 / product, 2 * a.nbytes / copy, "measured")


class DeviceStep:
    """A training step of many samples on a device, in bf16, as ``Loop`` does it.

    Args:
        mode: one of ``MODES``; compiled means each block by itself.
        micro_batch: samples of one forward pass.
    """

    def __init__(self, work: Workload, settings: Settings, mode: str, micro_batch: int) -> None:
        self.settings, self.work = settings, replace(work, batch_size=micro_batch)
        self.step = Step(self.work, settings.device)
        self.num_micro = max(1, settings.samples // micro_batch)
        # a few batches in turn: masking thousands of samples here would measure nothing
        self.batches = [self.work.batch(seed) for seed in range(min(4, self.num_micro))]
        if settings.is_cuda:
            self.batches = [batch.pin_memory() for batch in self.batches]
        if mode == "compiled":
            for block in (*self.step.model.encoder_blocks, *self.step.model.decoder_blocks):
                block.compile(fullgraph=True, dynamic=True, backend=settings.backend)

    @property
    def in_turn(self) -> list[MaskedBatch]:
        """The micro-batches of one step."""
        return [self.batches[i % len(self.batches)] for i in range(self.num_micro)]

    def gradients(self, batches: list[MaskedBatch], objective: Objective) -> None:
        """Forward and backward passes of micro-batches."""
        device = self.settings.device
        factors = self.step.factors(batches)
        if self.settings.is_cuda:
            factors = factors.pin_memory()
        factors = factors.to(device, non_blocking=True)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16):
                sums = self.step.model(batch.to(device), objective).sums
            (sums * factors).sum().backward()

    def __call__(self) -> None:
        self.gradients(self.in_turn, CrossEntropy())
        self.step.update()


def fitting_step(work: Workload, settings: Settings, mode: str) -> DeviceStep | None:
    """The step with the largest micro-batch that fits; None where not even one sample does."""
    micro_batch = min(settings.largest, settings.samples)
    while micro_batch:
        try:
            step = DeviceStep(work, settings, mode, micro_batch)
            step()
            step()  # now with the optimizer's state
            return step
        except torch.OutOfMemoryError:
            pass  # what it held is let go before the next try
        step = None
        gc.collect()
        torch.cuda.empty_cache()
        micro_batch //= 2
    return None


def synchronisations(step: DeviceStep) -> dict[str, Any]:
    """Does the host wait in a step, and in which lines? None on other devices than CUDA."""
    if not step.settings.is_cuda:
        step()
        return {"free": None, "places": {}}
    torch.cuda.synchronize()
    error = ""
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    except RuntimeError as caught:
        error = str(caught).splitlines()[0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in told if "synchroniz" in str(w.message)]
    places = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits)
    return {"free": not error, "error": error, "places": dict(places.most_common())}


def timed(step: DeviceStep, peak: Peak) -> dict[str, Any]:
    """Time, rate, MFU and memory of a step."""
    if step.settings.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    times = sorted(seconds_of(step, step.settings.device) for _ in range(step.settings.repeats))
    median = statistics.median(times)
    tokens = sum(useful_tokens(batch) for batch in step.in_turn)
    operations = sum(step.work.flops(batch) for batch in step.in_turn)
    held = torch.cuda.max_memory_allocated() / 2**30 if step.settings.is_cuda else 0.0
    return {
        "micro_batch": step.work.batch_size,
        "micro_batches": step.num_micro,
        "ms": {"median": median * 1e3, "least": times[0] * 1e3, "most": times[-1] * 1e3},
        "useful_tokens": tokens,
        "useful_tokens_a_second": tokens / median,
        "tflop": operations / 1e12,
        "mfu": operations / median / peak.operations,
        "memory_gib": held,
    }
