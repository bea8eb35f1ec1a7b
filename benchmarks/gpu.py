"""What a CUDA machine makes of a training step, in one command: tests, synchronisations, time.

    python benchmarks/gpu.py [--presets B,L,XL] [--modalities 7,21] [--out FILE]
    python benchmarks/gpu.py --device cpu --tiny        (the whole path on a tiny model)

1. ``pytest -m gpu``.
2. A step under ``torch.cuda.set_sync_debug_mode("error")``, and where the host waits if it does.
3. The steps of the presets in bf16, 1,024 samples in micro-batches that fit (halved until they do),
   eager and with compiled blocks: time by CUDA events, tokens, memory, MFU of useful tokens
   (operations by ``fourm/model/flops.py``).
4. For each eager step the floor of every stage (``stages.py``): operations, bytes, time at the
   device's peak, time in torch's profiler; and the largest kernels.

Tables go to standard error, JSON to standard output; exit status 0 if every part ran, the step
waits for nothing and B with 7 modalities reaches an MFU of 35 %.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device_step import DeviceStep, Settings, fitting_step, peak_of, synchronisations, timed
from stages import Cost, Peak, Stage, StageClock, costs, mean_costs
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from workload import Workload, sizes_of, workload_of_4m

from fourm.model.model import ModelConfig

GOAL = 0.35  # MFU of useful tokens, preset B, 7 modalities
PRESETS = {
    "B": ModelConfig(dim=768, encoder_depth=12, decoder_depth=12, num_heads=12),
    "L": ModelConfig(dim=1024, encoder_depth=24, decoder_depth=24, num_heads=16),
    "XL": ModelConfig(dim=2048, encoder_depth=24, decoder_depth=24, num_heads=32),
}
TINY = ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2)
TOKENS = {7: 128, 21: 256}  # inputs, and as many targets, of a sample: the papers' budgets
MODES = ("eager", "compiled")

# ---- the device ----------------------------------------------------------------------------------


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
    return facts


def gpu_tests(path: str) -> dict[str, Any]:
    """``pytest -m gpu``: its exit status (5 = there was none to run) and last line."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-500:]]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"status": done.returncode, "summary": lines[-1], "failed": failed}


# ---- stages --------------------------------------------------------------------------------------


def floor_table(step: DeviceStep, peak: Peak) -> dict[str, Any]:
    """Every stage of an eager step: what it must do, its time at the peak, its time; and the
    largest kernels of the few micro-batches that are profiled.
    """
    clock, on_device = StageClock(step.step.model), step.settings.is_cuda
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_device
    with profile(activities=activities) as profiler:
        step.gradients(step.batches, clock.objective)
        with clock.stage(Stage.OPTIMIZER):
            step.step.update()
        if on_device:
            torch.cuda.synchronize()
    clock.remove()
    num_parameters = sum(p.numel() for p in step.step.model.parameters())
    each = mean_costs([costs(step.work, b, num_parameters, width=2) for b in step.batches])
    taken = clock.seconds(profiler, on_device)
    rows = []
    for stage in Stage:
        cost, seconds = each.get(stage, Cost()), taken[stage]
        if stage != Stage.OPTIMIZER:  # once a step, the others once a micro-batch
            cost, seconds = cost * step.num_micro, seconds * step.num_micro / len(step.batches)
        mfu = cost.operations / peak.operations / seconds if seconds else 0.0
        row = {"stage": stage.value, "tflop": cost.operations / 1e12, "gb": cost.bytes / 1e9}
        rows.append(row | {"ms_at_peak": cost.seconds(peak) * 1e3, "ms": seconds * 1e3, "mfu": mfu})
    return {"stages": rows, "kernels": _largest(profiler, on_device)}


def _largest(profiler: Any, on_device: bool, num: int = 25) -> list[list[Any]]:
    """Name, milliseconds and calls of the largest kernels, or of the CPU's operations."""
    name = "self_device_time_total" if on_device else "self_cpu_time_total"
    events = [
        event
        for event in profiler.key_averages()
        if (event.device_type != DeviceType.CPU) == on_device and not event.is_user_annotation
    ]
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
    """Everything about one workload, by mode; what fails says why and stops nothing else."""
    found: dict[str, Any] = {"work": sizes_of(replace(work, batch_size=settings.samples))}
    for mode in modes:
        try:
            found[mode] = measure_mode(work, settings, mode, peak)
        except RuntimeError as error:
            found[mode] = {"failed": f"{type(error).__name__}: {str(error)[:2000]}"}
        told = {k: v for k, v in found[mode].items() if k not in ("stages", "kernels")}
        print(mode, json.dumps(told), file=sys.stderr)
        if "stages" in found[mode]:
            print(as_table(found[mode]["stages"]), file=sys.stderr)
        torch.compiler.reset()  # or blocks of many sizes would exceed the number of recompilations
        gc.collect()
    return found


def measure_mode(work: Workload, settings: Settings, mode: str, peak: Peak) -> dict[str, Any]:
    """Time, waits, and for eager steps the stages: compiled kernels belong to no single one."""
    step = fitting_step(work, settings, mode)
    if step is None:
        return {"failed": "not even one sample fits"}
    found = {**timed(step, peak), "waits": synchronisations(step)}
    return found | floor_table(step, peak) if mode == "eager" else found


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


def reached(result: dict[str, Any], is_tiny: bool) -> bool:
    """True if tests pass and every step ran and waits for nothing; at full size, if the goal of
    speed is met too.
    """
    steps = [
        found for modes in result["steps"].values() for n, found in modes.items() if n in MODES
    ]
    ran = not any("failed" in found for found in steps)
    waits = any(found.get("waits", {}).get("free") is False for found in steps)
    goal = result["steps"].get("B 4M-7", {})
    fastest = max((goal[mode].get("mfu", 0.0) for mode in MODES if mode in goal), default=0.0)
    passed = result["tests"]["status"] in (0, 5)
    return passed and ran and not waits and (is_tiny or fastest >= GOAL)


def parse(arguments: list[str] | None) -> argparse.Namespace:
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
    """The command; its exit status."""
    options = parse(arguments)
    tried_on_cpu = options.device == "cpu" and options.tiny
    if not tried_on_cpu and (options.device == "cpu" or not torch.cuda.is_available()):
        print(
            "benchmarks/gpu.py needs a CUDA device; --device cpu --tiny tries its path without one",
            file=sys.stderr,
        )
        return 2
    samples, largest, repeats = options.samples, options.largest, options.repeats
    if options.tiny:
        samples, largest, repeats = 8, 4, 2
    device = torch.device(options.device)
    settings = Settings(device, samples, largest, repeats, options.backend)
    peak = peak_of(settings)
    result: dict[str, Any] = {**described(settings), "peak": asdict(peak)}
    result["tests"] = gpu_tests(options.tests)
    print(json.dumps(result), file=sys.stderr)
    result["steps"] = {}
    for name, work in workloads(options).items():
        print(f"## {name}", file=sys.stderr)
        result["steps"][name] = measure(work(), settings, options.modes.split(","), peak)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return int(not reached(result, options.tiny))


if __name__ == "__main__":
    sys.exit(main())
