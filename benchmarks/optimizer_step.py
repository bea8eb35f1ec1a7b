"""What a step of the optimizer costs: fused AdamW against torch's default, on one core.

    python benchmarks/optimizer_step.py [--dim 384] [--repeats 8]

The numbers are those of a model of 6 + 6 layers on the modalities of 4M-7; their gradients are
random. The two take turns, so that a machine that is shared slows both. Writes
``optimizer_step.json``; exit status 0 if the fused one is at least three times as fast.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from turns import seconds_in_turn

from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig
from fourm.resources import configs_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    modalities = ModalitySet.load(configs_folder() / "modalities" / "4m_7.yaml")
    size = {"dim": options.dim, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 6}
    model = FourM(ModelConfig(**size), modalities)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    optimizers = {
        "default": torch.optim.AdamW(model.parameters()),
        "fused": torch.optim.AdamW(model.parameters(), fused=True),
    }
    times = seconds_in_turn({n: o.step for n, o in optimizers.items()}, options.repeats)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        **times,
        "ratio": times["fastest_seconds"]["default"] / times["fastest_seconds"]["fused"],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(int(figures["ratio"] < 3))


if __name__ == "__main__":
    main()
