"""Few labels: a fine-tuned model against the same network from random weights, and adapters against
all of the encoder. Three draws of labels and three seeds.

    python examples/demo_labels.py runs/scenes
    python benchmarks/finetune.py OUT [--labels 30,100,1000] [--of transfer|adapters]

``transfer`` is the encoder trained against random weights (shapes, attentive head), ``adapters``
the ways to learn at one number of labels (colours, linear head): head alone with four times the
steps, LoRA, all of it. Settings were chosen on another draw of another world, each way's own.
Exits with an error where the claim of docs/finetuning.md does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from fourm.config import load
from fourm.finetune.config import FinetuneConfig
from fourm.finetune.run import finetune

CONFIG = Path(__file__).parents[1] / "configs" / "finetune" / "demo.yaml"
STEPS = {30: 40, 100: 80, 1000: 160}
ADAPTED_STEPS = 400
SEEDS = (0, 1, 2)
TRANSFER = {
    "fine-tuned": [],
    "from random weights": [
        "weights=fresh",
        "loop.optimizer.name=muon",
        "loop.optimizer.lr=1e-3",
        "loop.optimizer.muon_lr=0.01",
        "loop.optimizer.layer_decay=1.0",
    ],
}
COLOURS = ["head=linear"]
ADAPTERS = {
    "head alone": [
        *COLOURS,
        "learns=head",
        f"loop.steps={4 * ADAPTED_STEPS}",
        "loop.optimizer.lr=1e-2",
    ],
    "fine-tuned": [*COLOURS, "loop.optimizer.lr=1e-3"],
    "adapters": [
        *COLOURS,
        "lora.rank=1",
        "lora.targets=all",
        "loop.optimizer.lr=3e-3",
        "loop.optimizer.layer_decay=1.0",
    ],
}


def accuracies(
    out: Path, target: str, way: str, labels: int, steps: int, more: list[str]
) -> tuple[np.ndarray, float]:
    """Held-out accuracy of each seed, and the share of the encoder's numbers that learned."""
    found, share, column = [], 0.0, target.rpartition(":")[2]
    for seed in SEEDS:
        place = out / f"{column}-{way.replace(' ', '-')}-{labels}-{seed}"
        judged = finetune(
            load(
                FinetuneConfig,
                CONFIG,
                [
                    *(f"out={place}", f"data={Path(target).parent}", f"target={target}"),
                    *(f"labels={labels}", f"loop.steps={steps}", f"loop.seed={seed}"),
                    *(f"loop.schedule.warmup={steps // 10}", *more),
                ],
            )
        )
        assert judged is not None
        found.append(judged.figures["accuracy"])
        share = judged.learning / judged.of
    values = 100 * np.array(found)
    print(
        f"{column}, {way:<20} {labels:>5} labels: {values.mean():.1f} ± {values.std():.1f} %"
        f" ({100 * share:.2f} % of the encoder learns)",
        flush=True,
    )
    return values / 100, share


def main() -> None:
    """Run one comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--labels", default="30,100,1000")
    parser.add_argument("--of", choices=("transfer", "adapters"), default="transfer")
    options = parser.parse_args()
    held = True
    for labels in (int(word) for word in options.labels.split(",")):
        if options.of == "transfer":
            table, steps, ways = "shape", STEPS[labels], TRANSFER
        else:
            table, steps, ways = "colour", ADAPTED_STEPS, ADAPTERS
        target = f"{options.scenes}/labels.csv:{table}"
        found = {
            way: accuracies(options.out, target, way, labels, steps, more)
            for way, more in ways.items()
        }
        mean = {way: float(values.mean()) for way, (values, _) in found.items()}
        if options.of == "transfer":
            held &= mean["fine-tuned"] > mean["from random weights"]
            continue
        gain = (mean["adapters"] - mean["head alone"]) / (mean["fine-tuned"] - mean["head alone"])
        print(f"adapters reach {100 * gain:.0f} % of what all of the encoder gains")
        held &= found["adapters"][1] <= 0.02 and gain >= 0.9
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
