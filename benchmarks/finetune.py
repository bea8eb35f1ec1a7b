"""Few labels: a fine-tuned model against the same network from random weights, and adapters against
all of the encoder. Three draws of labels and three seeds.

    python examples/demo_labels.py runs/scenes
    python benchmarks/finetune.py OUT [--labels 30,100,1000] [--of transfer|adapters]

``transfer`` is the encoder trained against random weights, ``adapters`` the ways to learn at one
number of labels: head alone, LoRA, all of it. Settings were chosen on another draw (seed 100), each
way's own. Exits with an error where the claim of docs/finetuning.md does not hold.
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
SEEDS = (0, 1, 2)
WAYS = {
    "fine-tuned": [],
    "from random weights": [
        "weights=fresh",
        "loop.optimizer.name=muon",
        "loop.optimizer.lr=1e-3",
        "loop.optimizer.muon_lr=0.01",
        "loop.optimizer.layer_decay=1.0",
    ],
    "head alone": ["learns=head"],
    "adapters": ["lora.rank=4", "loop.optimizer.lr=3e-3", "loop.optimizer.layer_decay=1.0"],
}


def accuracies(out: Path, scenes: Path, way: str, labels: int) -> tuple[np.ndarray, float]:
    """Held-out accuracy of each seed, and the share of the encoder's numbers that learned."""
    found, share = [], 0.0
    for seed in SEEDS:
        place = out / f"{way.replace(' ', '-')}-{labels}-{seed}"
        judged = finetune(
            load(
                FinetuneConfig,
                CONFIG,
                [
                    *(f"out={place}", f"data={scenes}", f"target={scenes}/labels.csv:shape"),
                    *(f"labels={labels}", f"loop.steps={STEPS[labels]}", f"loop.seed={seed}"),
                    *(f"loop.schedule.warmup={STEPS[labels] // 10}", *WAYS[way]),
                ],
            )
        )
        assert judged is not None
        found.append(judged.figures["accuracy"])
        share = judged.learning / judged.of
    values = np.array(found)
    print(
        f"{way:<20} {labels:>5} labels: {100 * values.mean():.1f} ± {100 * values.std():.1f} %"
        f" ({100 * share:.2f} % of the encoder learns)",
        flush=True,
    )
    return values, share


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
            tuned, _ = accuracies(options.out, options.scenes, "fine-tuned", labels)
            fresh, _ = accuracies(options.out, options.scenes, "from random weights", labels)
            held &= tuned.mean() > fresh.mean()
            continue
        before, _ = accuracies(options.out, options.scenes, "head alone", labels)
        whole, _ = accuracies(options.out, options.scenes, "fine-tuned", labels)
        adapted, share = accuracies(options.out, options.scenes, "adapters", labels)
        gain = (adapted.mean() - before.mean()) / (whole.mean() - before.mean())
        print(f"adapters reach {100 * gain:.0f} % of what all of the encoder gains")
        held &= share <= 0.02 and gain >= 0.9
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
