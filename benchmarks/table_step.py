"""What the tables of a step cost beside its products: embedding's backward pass, norm, clipping and
AdamW, on one core.

    python benchmarks/table_step.py [--modalities 7] [--repeats 9]

An input table and a head table of a modality set; the first is looked up twice a step, by 1,024
random rows each (encoder and decoder), the second has a gradient everywhere, as heads do. Three
ways take turns: ``plain`` (a gradient for each look-up, gradients multiplied, fused AdamW),
``kept`` (as our loop does it) and ``rows`` (with ``optimizer.tables=rows``). JSON on standard
output; exit status 0 if each is no slower than the one before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import seconds_in_turn

from fourm.modalities import ModalitySet
from fourm.model.embedding import TokenTable
from fourm.resources import configs_folder
from fourm.training.allocations import keep_freed_memory
from fourm.training.optimizers import OptimizerConfig, build_optimizers
from fourm.training.state import TrainingState

_DIM, _ROWS, _CLIP = 384, 1024, 1.0
CONFIGS = {
    "plain": OptimizerConfig(),
    "kept": OptimizerConfig(),
    "rows": OptimizerConfig(tables="rows"),
}


class Tables(nn.Module):
    """Of a set: what a model looks up, and its heads."""

    def __init__(self, modalities: ModalitySet) -> None:
        super().__init__()
        inputs = [m for m in modalities if m.kind != "continuous" and m.input]
        self.tokens = TokenTable(modalities, inputs, _DIM, 0.3)
        self.tokens.only_look_up()
        self.heads = TokenTable(modalities, modalities.outputs, _DIM, 0.02)


def plain_update(tables: Tables, optimizers: list[torch.optim.Optimizer]) -> None:
    """Multiply, step, let go."""
    nn.utils.clip_grad_norm_(tables.parameters(), _CLIP)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def step_of(way: str, modalities: ModalitySet) -> Callable[[], None]:
    """One way's backward passes and update."""
    tables = Tables(modalities)
    optimizers = build_optimizers(tables, CONFIGS[way])
    state = None if way == "plain" else TrainingState(tables, optimizers, 0.0)
    head_gradient = torch.randn_like(tables.heads.table) * 1e-3

    def look_up(rows: Tensor) -> Tensor:
        table = tables.tokens
        if state is None or table.look_ups is None:
            return F.embedding(rows, table.table)
        return table.look_ups(table.table, rows)

    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(tables.tokens.table), (2, _ROWS), generator=generator)
        (look_up(rows[0]).sum() + look_up(rows[1]).square().sum()).backward()
        tables.heads.table.grad = head_gradient  # nobody makes one here
        if state is None:
            plain_update(tables, optimizers)
        else:
            gradients = state.gradients
            state.update(None, gradients.clip(gradients.norm(), _CLIP))

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modalities", type=int, default=7, choices=[7, 21])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    path = configs_folder() / "modalities" / f"4m_{options.modalities}.yaml"
    modalities = ModalitySet.load(path)
    steps = {way: step_of(way, modalities) for way in CONFIGS}
    times = seconds_in_turn(steps, options.repeats)
    median = times["median_seconds"]
    print(json.dumps({"modalities": options.modalities, **times}, indent=1))
    sys.exit(int(not median["plain"] >= median["kept"] >= median["rows"]))


if __name__ == "__main__":
    main()
