"""What a CUDA machine makes of a training step, in one command: tests, synchronisations, time.

    python benchmarks/gpu.py [--presets B,L,XL] [--modalities 7,21] [--out FILE]
    python benchmarks/gpu.py --device cpu --tiny        (the whole path on a tiny model)

1. ``pytest -m gpu``.
2. A step under ``torch.cuda.set_sync_debug_mode("error")``, and where the host waits if it does.
3. The steps of the presets in bf16, 1,024 samples in micro-batches that fit (halved until they do),
   eager and with compiled blocks: time by CUDA events, tokens, memory, MFU of useful tokens
   (operations by ``fourm/flops.py``).
4. For each eager step the floor of every stage (``stages.py``): operations, bytes, time at the
   device's peak, time in torch's profiler; and the largest kernels.

Tables go to standard error, JSON to standard output; exit status 0 if every part ran, the step
waits for nothing and B with 7 modalities reaches an MFU of 35 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stages import Cost, Peak, Stage, StageClock, costs, mean_costs
from torch.profiler import ProfilerActivity, profile
from workload import Step, Workload, sizes_of, useful_tokens, workload_of_4m

from fourm.attention import resolve_backend
from fourm.batch import MaskedBatch
from fourm.model import ModelConfig
from fourm.objectives import CrossEntropy, Objective

GOAL = 0.35  # MFU of useful tokens, preset B, 7 modalities
PRESETS = {
    "B": ModelConfig(dim=768, encoder_depth=12, decoder_depth=12, num_heads=12),
    "L": ModelConfig(dim=1024, encoder_depth=24, decoder_depth=24, num_heads=16),
    "XL": ModelConfig(dim=2048, encoder_depth=24, decoder_depth=24, num_heads=32),
}
TINY = ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2)
TOKENS = {7: 128, 21: 256}  # inputs, and as many targets, of a sample: the papers' budgets
MODES = ("eager", "compiled")
# bf16 products without sparsity and memory, a second, by data sheet; the first name that fits
_PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100 PCIe": (756e12, 2.0e12),
    "H100": (989e12, 3.35e12),
    "B200": (2250e12, 8.0e12),
    "A100-SXM4-80GB": (312e12, 2.04e12),
    "A100": (312e12, 1.56e12),
    "L40S": (362e12, 0.86e12),
    "L4": (121e12, 0.3e12),
    "RTX 4090": (165e12, 1.01e12),
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


# ---- the device ----------------------------------------------------------------------------------


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
    for known, (operations, moved) in _PEAKS.items():
        if known in name:
            return Peak(operations, moved, "data sheet")
    side = 8192 if settings.is_cuda else 256
    a = torch.randn(side, side, device=settings.device, dtype=torch.bfloat16)
    other = torch.empty_like(a)
    product = min(seconds_of(lambda: a @ a, settings.device) for _ in range(5))
    copy = min(seconds_of(lambda: other.copy_(a), settings.device) for _ in range(5))
    return Peak(2 * side**3 / product, 2 * a.nbytes / copy, "measured")


def described(settings: Settings) -> dict[str, Any]:
    """The device and the versions that a figure belongs to."""
    facts: dict[str, Any] = {"device": settings.device.type, "torch": torch.__version__}
    if settings.is_cuda:
        properties = torch.cuda.get_device_properties(settings.device)
        facts |= {
            "device": properties.name,
            "capability": [properties.major, properties.minor],
            "memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    facts["attention"] = resolve_backend("auto", settings.device.type, torch.bfloat16)
    return facts


def gpu_tests(path: str) -> dict[str, Any]:
    """``pytest -m gpu``: its exit status (5 = there was none to run) and last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"status": done.returncode, "summary": lines[-1], "failed": failed}


# ---- a step --------------------------------------------------------------------------------------


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

    def gradients(self, objective: Objective) -> None:
        """Forward and backward passes of all micro-batches."""
        device, batches = self.settings.device, self.in_turn
        factors = self.step.factors(batches)
        if self.settings.is_cuda:
            factors = factors.pin_memory()
        factors = factors.to(device, non_blocking=True)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16):
                sums = self.step.model(batch.to(device), objective).sums
            (sums * factors).sum().backward()

    def __call__(self) -> None:
        self.gradients(CrossEntropy())
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
    torch.cuda.set_sync_debug_mode("error")
    error = ""
    try:
        step()
    except RuntimeError as caught:
        error = str(caught).splitlines()[0]
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        step()
    torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught_warnings if "synchroniz" in str(w.message)]
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


# ---- stages --------------------------------------------------------------------------------------


def floor_table(step: DeviceStep, peak: Peak) -> dict[str, Any]:
    """Every stage of an eager step: what it must do, its time at the peak, its time; the largest
    kernels.
    """
    clock, on_device = StageClock(step.step.model), step.settings.is_cuda
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    with profile(activities=activities) as profiler:
        step.gradients(clock.objective)
        with clock.stage(Stage.OPTIMIZER):
            step.step.update()
        if on_device:
            torch.cuda.synchronize()
    clock.remove()
    num_parameters = sum(p.numel() for p in step.step.parameters)
    each = mean_costs([costs(step.work, b, num_parameters, width=2) for b in step.in_turn])
    taken = clock.seconds(profiler, on_device)
    rows = []
    for stage in Stage:
        cost = each.get(stage, Cost())
        if stage != Stage.OPTIMIZER:
            cost = cost * step.num_micro
        mfu = cost.operations / peak.operations / taken[stage] if taken[stage] else 0.0
        row = {"stage": stage.value, "tflop": cost.operations / 1e12, "gb": cost.bytes / 1e9}
        row |= {"ms_at_peak": cost.seconds(peak) * 1e3, "ms": taken[stage] * 1e3, "mfu": mfu}
        rows.append(row)
    return {"stages": rows, "kernels": _largest(profiler, on_device)}


def _largest(profiler: Any, on_device: bool, num: int = 25) -> list[list[Any]]:
    """Name, ms a step and calls of the largest operations."""
    name = "self_device_time_total" if on_device else "self_cpu_time_total"
    events = [e for e in profiler.key_averages() if not e.key.startswith("stage: ")]
    events.sort(key=lambda event: -getattr(event, name))
    return [[e.key[:100], getattr(e, name) / 1e3, e.count] for e in events[:num]]


def as_table(rows: list[dict[str, Any]]) -> str:
    """Stages as a table."""
    lines = [
        "| stage | TFLOP | GB | ms at peak | ms | MFU |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = [f"{row[key]:.4g}" for key in ("tflop", "gb", "ms_at_peak", "ms")]
        lines.append(f"| {row['stage']} | {' | '.join(numbers)} | {row['mfu']:.1%} |")
    total = [f"{sum(row[key] for row in rows):.4g}" for key in ("tflop", "gb", "ms_at_peak", "ms")]
    return "\n".join([*lines, f"| all | {' | '.join(total)} | |"])


# ---- all of it -----------------------------------------------------------------------------------


def measure(work: Workload, settings: Settings, modes: list[str], peak: Peak) -> dict[str, Any]:
    """Everything about one workload, by mode."""
    found: dict[str, Any] = {"work": sizes_of(replace(work, batch_size=settings.samples))}
    for mode in modes:
        step = fitting_step(work, settings, mode)
        if step is None:
            found[mode] = {"does_not_fit": True}
            continue
        found[mode] = {**timed(step, peak), "waits": synchronisations(step)}
        print(mode, json.dumps(found[mode]), file=sys.stderr)
        if mode == "eager":  # compiled kernels belong to no single stage
            found[mode] |= floor_table(step, peak)
            print(as_table(found[mode]["stages"]), file=sys.stderr)
        del step
        gc.collect()
    return found


def workloads(options: argparse.Namespace) -> dict[str, Callable[[], Workload]]:
    """The steps to measure by name."""
    numbers = [int(num) for num in options.modalities.split(",")]
    if options.tiny:
        return {f"tiny 4M-{n}": partial(workload_of_4m, n, TINY, 16, 4) for n in numbers}
    return {
        f"{name} 4M-{n}": partial(workload_of_4m, n, PRESETS[name], TOKENS[n], 1)
        for name in options.presets.split(",")
        for n in numbers
    }


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--modalities", default="7,21")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--samples", type=int, default=1024, help="of a step")
    parser.add_argument("--largest", type=int, default=256, help="micro-batch that is tried first")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--tests", default="tests", help="where tests marked gpu are looked for")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few samples")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    tried_on_cpu = options.device == "cpu" and options.tiny
    if not tried_on_cpu and (options.device == "cpu" or not torch.cuda.is_available()):
        print(
            "benchmarks/gpu.py needs a CUDA device; --device cpu --tiny tries its path without one",
            file=sys.stderr,
        )
        return 2
    samples, repeats = (8, 2) if options.tiny else (options.samples, options.repeats)
    largest = min(options.largest, 4) if options.tiny else options.largest
    device = torch.device(options.device)
    settings = Settings(device, samples, largest, repeats, options.backend)
    peak = peak_of(settings)
    result: dict[str, Any] = {**described(settings), "peak": asdict(peak)}
    result["tests"] = gpu_tests(options.tests)
    print(json.dumps(result), file=sys.stderr)
    for name, work in workloads(options).items():
        print(f"## {name}", file=sys.stderr)
        result[name] = measure(work(), settings, options.modes.split(","), peak)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return int(not reaches_goal(result, options.modes.split(",")))


def reaches_goal(result: dict[str, Any], modes: list[str]) -> bool:
    """True if tests pass, no step waits and the first goal of speed is reached."""
    steps = [
        found.get(mode, {})
        for found in result.values()
        if isinstance(found, dict)
        for mode in modes
    ]
    waits = any(step.get("waits", {}).get("free") is False for step in steps)
    fastest = max(
        (result.get("B 4M-7", {}).get(mode, {}).get("mfu", 0.0) for mode in modes), default=0.0
    )
    return result["tests"]["status"] in (0, 5) and not waits and fastest >= GOAL


if __name__ == "__main__":
    sys.exit(main())
