"""What a step of Muon costs: four polynomials made for it against five of the published one, on one
core.

    python benchmarks/muon_step.py [--dim 128] [--depth 3] [--repeats 8]

The numbers are those of the demo's model; their gradients are random. The two take turns, so that a
machine that is shared slows both. Writes ``muon_step.json``; exit status 0 if the four are at least
1.3 times as fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from turns import seconds_in_turn

from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig
from fourm.resources import configs_folder
from fourm.training import optimizers
from fourm.training.optimizers import OptimizerConfig, build_optimizers, orthogonalize

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_muon import five_steps  # the reference of the tests, too

WAYS = {"published": five_steps, "ours": orthogonalize}


def model_with_gradients(dim: int, depth: int) -> nn.Module:
    """The demo's model of a size, with random gradients."""
    modalities = ModalitySet.load(configs_folder() / "modalities" / "4m_7.yaml")
    size = {"dim": dim, "encoder_depth": depth, "decoder_depth": depth}
    model = FourM(ModelConfig(**size), modalities)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = model_with_gradients(options.dim, options.depth)
    muon = build_optimizers(model, OptimizerConfig(name="muon"))[-1]

    def step(way: Callable[[Tensor], Tensor]) -> None:
        optimizers.orthogonalize = way
        muon.step()

    actions = {name: partial(step, way) for name, way in WAYS.items()}
    times = seconds_in_turn(actions, options.repeats)
    figures = {
        "dim": options.dim,
        "depth": options.depth,
        "numbers": sum(p.numel() for group in muon.param_groups for p in group["params"]),
        **times,
        "ratio": times["fastest_seconds"]["published"] / times["fastest_seconds"]["ours"],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(int(figures["ratio"] < 1.3))


if __name__ == "__main__":
    main()
