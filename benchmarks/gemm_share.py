"""Where the CPU time of a training step goes: the share of matrix products, the largest other
operations, and the floor.

    python benchmarks/gemm_share.py [--work demo,small7,b7,small21] [--steps 3] [--out FILE]

One thread, float32. Matrix products are ``mm``, ``addmm``, ``bmm`` and torch's fused attention,
whose softmax counts as part of it. What is in no operation is Python and the profiler's own cost.
The profiler's clock does not stop while other programs have the core: of several steps the least
disturbed one is read. The floor is the time of the operations that a formula counts, at the rate
of the step's own products, each shape alone in a loop; its share of the step is in CPU time without
the profiler. JSON on standard output; exit status 0 if every share of products is at least 85 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from workload import Step, Workload, sizes_of, workload_of_4m, workload_of_demo

from fourm.batches.batch import MaskedBatch
from fourm.model.model import ModelConfig
from fourm.training.optimizers import orthogonalize, parameter_groups

PRODUCTS = (
    "aten::mm",
    "aten::addmm",
    "aten::addmm_",
    "aten::bmm",
    "aten::baddbmm",
    "aten::baddbmm_",
)
ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
FUSED = (ATTENTION, f"{ATTENTION}_backward")
GOAL = 0.85
_SMALL = ModelConfig(dim=384, encoder_depth=6, decoder_depth=6, num_heads=6)
_BASE = ModelConfig(dim=768, encoder_depth=12, decoder_depth=12, num_heads=12)
WORKS: dict[str, Callable[[], Workload]] = {
    "demo": workload_of_demo,
    "small7": lambda: workload_of_4m(7, _SMALL, 128, 8, pixels=False),
    "b7": lambda: workload_of_4m(7, _BASE, 128, 2, pixels=False),
    "small21": lambda: workload_of_4m(21, _SMALL, 128, 8),
}


def best_seconds(action: Callable[[], Any], repeats: int = 5) -> float:
    """Least CPU time of an action."""
    action()
    times = []
    for _ in range(repeats):
        started = time.process_time()
        action()
        times.append(time.process_time() - started)
    return min(times)


def product_seconds(shapes: list[list[int]]) -> tuple[float, int]:
    """CPU time of one product alone, and its operations. ``shapes`` are its factors'."""
    a, b = (torch.randn(shape) for shape in shapes)
    return best_seconds(lambda: a @ b), 2 * a.numel() * b.shape[-1]


def floor_of(events: Any, by_formula: int, step_seconds: float) -> dict[str, float]:
    """Operations and time of all products of a profile, each shape alone, and the time of the
    formula's operations at the same rate.
    """
    seconds = operations = 0.0
    for event in events:
        if event.key not in PRODUCTS:
            continue
        shapes = [s for s in event.input_shapes if len(s) >= 2][-2:]
        if len(shapes) < 2 or shapes[0][-1] != shapes[1][-2]:
            continue
        once, num = product_seconds(shapes)
        seconds += once * event.count
        operations += num * event.count
    rate = operations / seconds
    return {
        "gflop_by_formula": by_formula / 1e9,
        "gflop_of_products": operations / 1e9,
        "gflop_a_second": rate / 1e9,
        "products_alone_seconds": seconds,
        "seconds": by_formula / rate,
        "share_of_step": by_formula / rate / step_seconds,
    }


def muon_operations(step: Step) -> int:
    """Operations of Muon's products, as torch counts them where nothing is computed."""
    shaped = [
        torch.empty(role.pieces, p.shape[0] // role.pieces, p.shape[1], device="meta")
        for group in parameter_groups(step.model, step.work.optimizer)
        if group.optimizer == "muon"
        for p, role in zip(group.params, group.roles, strict=True)
    ]
    with FlopCounterMode(display=False) as counter:
        for pieces in shaped:
            orthogonalize(pieces)
    return counter.get_total_flops()


@dataclass(frozen=True)
class Profiled:
    """One step under the profiler, whose clock runs on while others have the core."""

    profiler: Any
    batch: MaskedBatch
    seconds: float  # by the profiler's clock, all operations and Python
    cpu_seconds: float

    @property
    def disturbance(self) -> float:
        """How much longer the step took than it worked: 1 on an idle machine."""
        return self.seconds / self.cpu_seconds

    @staticmethod
    def of(step: Step, batch: MaskedBatch) -> Profiled:
        """A step's profile."""
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            with torch.profiler.record_function("python"):
                seconds = step(batch)[1].step
        total = sum(event.self_cpu_time_total for event in profiler.key_averages()) / 1e6
        return Profiled(profiler, batch, total, seconds)


def report(work: Workload, num_steps: int) -> dict[str, Any]:
    """Shares, largest operations and floor of a workload's step: of the least disturbed one."""
    step = Step(work)
    batches = [work.batch(seed) for seed in range(num_steps)]
    plain = [step(batch)[1] for batch in batches[:1] + batches][1:]
    seconds = statistics.median(s.step for s in plain)
    best = min((Profiled.of(step, batch) for batch in batches), key=lambda p: p.disturbance)
    events = best.profiler.key_averages()
    own = {event.key: event.self_cpu_time_total / 1e6 for event in events}
    calls = {event.key: event.count for event in events}
    products = sum(own.get(name, 0.0) for name in PRODUCTS)
    attention = sum(own.get(name, 0.0) for name in FUSED)
    others = [name for name in own if name not in (*PRODUCTS, *FUSED)]
    others.sort(key=lambda name: -own[name])
    shaped = best.profiler.key_averages(group_by_input_shape=True)
    by_shape = [e for e in shaped if e.key not in FUSED and any(e.input_shapes)]
    by_shape.sort(key=lambda e: -e.self_cpu_time_total)
    return {
        "work": sizes_of(work),
        "cpu_seconds_a_step": {
            "forward": statistics.median(s.forward for s in plain),
            "backward": statistics.median(s.backward for s in plain),
            "optimizer": statistics.median(s.optimizer for s in plain),
            "step": seconds,
        },
        "profiled_seconds": best.seconds,
        "disturbance": best.disturbance,
        "products_seconds": products,
        "attention_seconds": attention,
        "share_of_gemm": (products + attention) / best.seconds,
        "floor": floor_of(shaped, work.flops(best.batch) + muon_operations(step), seconds),
        "others": [[n, own[n], own[n] / best.seconds, calls[n]] for n in others[:25]],
        "by_shape": [
            [e.key, [s for s in e.input_shapes if s], e.self_cpu_time_total / 1e6]
            for e in by_shape[:25]
        ],
    }


def as_text(name: str, figures: dict[str, Any]) -> str:
    """A report as a table."""
    seconds, floor = figures["cpu_seconds_a_step"], figures["floor"]
    lines = [
        f"## {name}: {figures['work']}",
        "s a step: " + ", ".join(f"{part} {value:.4f}" for part, value in seconds.items()),
        f"GEMM {figures['share_of_gemm']:.1%} of {figures['profiled_seconds']:.4f} s under the"
        f" profiler (disturbance {figures['disturbance']:.2f}): products"
        f" {figures['products_seconds']:.4f} s, attention {figures['attention_seconds']:.4f} s",
        "floor: " + ", ".join(f"{part} {value:.4g}" for part, value in floor.items()),
        "",
        "| operation | s a step | share | calls |",
        "|---|---|---|---|",
        *(
            f"| {n} | {s:.4f} | {share:.1%} | {count:g} |"
            for n, s, share, count in figures["others"]
        ),
    ]
    lines += ["", "| operation | shapes | s a step |", "|---|---|---|"]
    lines += [f"| {n} | {str(shapes)[:80]} | {s:.4f} |" for n, shapes, s in figures["by_shape"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default=",".join(WORKS), help=", ".join(WORKS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--share", type=float, default=GOAL, help="least, for the exit status")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in options.work.split(","):
        figures[name] = report(WORKS[name](), options.steps)
        print(as_text(name, figures[name]), file=sys.stderr)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    sys.exit(int(any(f["share_of_gemm"] < options.share for f in figures.values())))


if __name__ == "__main__":
    main()
