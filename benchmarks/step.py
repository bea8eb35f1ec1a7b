"""A whole training step, ours against 4M's way of it (``reference_like.py``): CPU seconds of one
core for each useful token.

    python benchmarks/step.py [--modalities 7,21] [--pairs 10] [--out FILE]

Both sides have a process of their own and take turns, so that a machine that is shared slows both
and neither has the other's memory. First they train on the same masks from the same weights: their
losses must agree, step after step. Then 4M's way gets the masks that it would draw, whose slots are
partly empty, and ours the masks that it draws of the same samples. A useful token is an input or a
target that a slot holds. JSON on standard output; exit status 0 if losses agree and the goals are
met: 1.6 times with 7 modalities, 2 times with 21.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import torch
from reference_inputs import dense_modalities
from reference_like import ReferenceLike
from torch import nn
from workload import (
    Seconds,
    Step,
    Workload,
    sizes_of,
    timed_step,
    useful_tokens,
    workload_of_4m,
)

from fourm.model.model import ModelConfig
from fourm.training.optimizers import OptimizerConfig

GOALS = {7: 1.6, 21: 2.0}
TOLERANCE = 1e-4  # of losses on equal masks, relative
SIDES = ("reference", "ours")
# 4M's way gets torch's allocator as it comes, whatever our program sets for itself
ENVIRONMENT = {"reference": {"THP_MEM_ALLOC_ENABLE": "0"}, "ours": {}}


@dataclass(frozen=True)
class Sizes:
    """The work of both sides."""

    modalities: int
    dim: int = 384
    depth: int = 6
    heads: int = 6
    tokens: int = 128
    batch: int = 8
    rows: bool = False  # tables pay for the rows that a batch touches (``optimizer.tables: rows``)

    def workload(self) -> Workload:
        """4M-7 has no pixels here; 4M-21 is whole."""
        model = ModelConfig(
            dim=self.dim,
            encoder_depth=self.depth,
            decoder_depth=self.depth,
            num_heads=self.heads,
        )
        pixels = self.modalities == 21
        return workload_of_4m(self.modalities, model, self.tokens, self.batch, pixels)


@dataclass(frozen=True)
class Turn:
    """What one step gave."""

    loss: float
    seconds: Seconds
    tokens: int  # useful ones


class Side(Protocol):
    """One way of doing the step."""

    def step(self, seed: int, padding: bool) -> Turn:
        """One step on the samples of ``seed``, with masks as 4M draws them or as we do."""
        ...


def default_adamw(model: ReferenceLike, config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's AdamW as it comes; everything but norms and biases decays."""
    plain = [p for name, p in model.named_parameters() if "norm" in name or name.endswith("bias")]
    chosen = {id(p) for p in plain}
    decayed = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


class Ours:
    """Packed rows, and the optimizers of ``build_optimizers``."""

    def __init__(self, work: Workload) -> None:
        self.work, self.trained = work, Step(work)

    def step(self, seed: int, padding: bool) -> Turn:
        batch = (self.work.padding() if padding else self.work).batch(seed)
        return Turn(*self.trained(batch), useful_tokens(batch))


class Reference:
    """4M's way, from our weights."""

    def __init__(self, work: Workload) -> None:
        slots = work.masking.num_inputs[1], work.masking.num_targets[1]
        self.work, self.model = work, ReferenceLike(work.build(), *slots)
        self.optimizer = default_adamw(self.model, work.optimizer)

    def step(self, seed: int, padding: bool) -> Turn:
        work = self.work.padding() if padding else self.work
        batch = work.batch(seed)
        given = dense_modalities(work.modalities, work.samples(seed), batch)
        done = timed_step(lambda: self.model(given), self._update)
        return Turn(*done, useful_tokens(batch))

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.work.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def serve(connection: Connection, name: str, sizes: Sizes) -> None:
    """A side in its own process: answers (seed, padding) with a ``Turn`` until it is told None."""
    torch.set_num_threads(1)
    work = sizes.workload()
    if name == "ours" and sizes.rows:
        work = replace(work, optimizer=replace(work.optimizer, tables="rows", decay_tables=False))
    side: Side = Ours(work) if name == "ours" else Reference(work)
    while (asked := connection.recv()) is not None:
        connection.send(side.step(*asked))


class Sides:
    """Both processes."""

    def __init__(self, sizes: Sizes) -> None:
        context = get_context("spawn")
        self._ends: dict[str, Connection] = {}
        self._processes = []
        for name in SIDES:
            self._ends[name], theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, name, sizes), daemon=True)
            # a process begins with the environment of its parent at that moment
            with mock.patch.dict(os.environ, ENVIRONMENT[name]):
                process.start()
            theirs.close()  # so that a side that dies ends the pipe
            self._processes.append(process)

    def step(self, name: str, seed: int, padding: bool) -> Turn:
        """One step of one side, while the other waits."""
        self._ends[name].send((seed, padding))
        return self._ends[name].recv()

    def end(self) -> None:
        """Let both processes end."""
        for end in self._ends.values():
            end.send(None)
        for process in self._processes:
            process.join()


def median_seconds(turns: list[Turn]) -> dict[str, float]:
    """Median CPU seconds of each part of a step."""
    parts = {name: [asdict(t.seconds)[name] for t in turns] for name in asdict(Seconds())}
    parts["step"] = [t.seconds.step for t in turns]
    return {name: round(statistics.median(values), 4) for name, values in parts.items()}


def compare(sizes: Sizes, num_checks: int, num_pairs: int) -> dict[str, Any]:
    """Losses on equal masks, then the time of alternating steps."""
    sides = Sides(sizes)
    losses = []  # (reference, ours); the first of them are before any update
    for seed in range(num_checks):
        losses.append([sides.step(name, seed, True).loss for name in SIDES])
    difference = max(abs(a - b) / abs(a) for a, b in losses)
    turns: dict[str, list[Turn]] = {name: [] for name in SIDES}
    for seed in range(num_pairs):
        for name in SIDES if seed % 2 else SIDES[::-1]:
            turns[name].append(sides.step(name, seed, name == "reference"))
    sides.end()
    per_token = {n: [t.seconds.step / t.tokens for t in of] for n, of in turns.items()}
    ratios = [a / b for a, b in zip(per_token["reference"], per_token["ours"], strict=True)]
    slots = 2 * sizes.tokens * sizes.batch
    quartiles = statistics.quantiles(ratios, n=4) if num_pairs > 1 else ratios * 3
    return {
        "work": sizes_of(sizes.workload()),
        "losses_on_equal_masks": losses,
        "largest_relative_difference": difference,
        "cpu_seconds": {name: median_seconds(of) for name, of in turns.items()},
        "useful_tokens": {n: statistics.fmean(t.tokens for t in of) for n, of in turns.items()},
        "filled": {n: statistics.fmean(t.tokens for t in of) / slots for n, of in turns.items()},
        "useful_tokens_a_cpu_second": {
            name: round(1 / statistics.median(values)) for name, values in per_token.items()
        },
        "ratio_per_useful_token": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "goal": GOALS[sizes.modalities],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modalities", default="7,21")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128, help="inputs and targets of a sample")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", action="store_true", help="ours with optimizer.tables: rows")
    parser.add_argument("--checks", type=int, default=3, help="steps on equal masks")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--ratio", type=float, help="instead of the goals, for the exit status")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = ("dim", "depth", "heads", "tokens", "batch", "rows")
    shape = {n: getattr(options, n) for n in names}
    figures = {}
    for num in map(int, options.modalities.split(",")):
        figures[str(num)] = compare(Sizes(num, **shape), options.checks, options.pairs)
        print(json.dumps(figures[str(num)]), file=sys.stderr)
    text = json.dumps({"torch": torch.__version__, **figures}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    unequal = any(f["largest_relative_difference"] > TOLERANCE for f in figures.values())
    wanted = [options.ratio or f["goal"] for f in figures.values()]
    found = [f["ratio_per_useful_token"] for f in figures.values()]
    missed = any(a < b for a, b in zip(found, wanted, strict=True))
    sys.exit(int(unequal or missed))


if __name__ == "__main__":
    main()
