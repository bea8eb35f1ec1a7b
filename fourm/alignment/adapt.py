"""Adapt frozen contrastive latents to an unlabelled domain with UniMoS (2403.06946; ``unimos.py``).

    fourm adapt CONFIG [KEY=VALUE]...

Labels of the target are no input; ``accuracy`` compares with them afterwards.
"""

from __future__ import annotations

from pathlib import Path

import torch

from fourm.alignment.adapt_task import AdaptTask
from fourm.alignment.domains import UNKNOWN, open_domain, read_classes
from fourm.alignment.latents import open_latents
from fourm.alignment.unimos import AdaptConfig, UniMoS
from fourm.alignment.unimos_losses import information
from fourm.cli import door
from fourm.config import dump, load
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.files.weights import WEIGHTS_FILE, load_weights
from fourm.training.checkpoints import list_checkpoints
from fourm.training.loop import Loop


def adapt(config: AdaptConfig) -> dict[str, float]:
    """Train to the end; returns unsupervised figures. ``select: information`` keeps the checkpoint
    that is surest.
    """
    task, out = AdaptTask(config), Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    loop = Loop(task.model(), task, config.loop, out)
    dump(config, out / "config.yaml")
    figures = loop.run()
    write_json_atomic(out / "done.json", {"step": loop.step, **figures})
    return figures


@torch.no_grad()
def accuracy(folder: str | Path, labels: str | Path) -> dict[str, float]:
    """Accuracy on the target, with its labels, of a finished adaptation and of the zero-shot
    classifier.
    """
    config = load(AdaptConfig, Path(folder) / "config.yaml")
    task = AdaptTask(config)
    target = open_domain(open_latents(config.target), task.classes, read_classes(labels), True)
    known = target.labels != UNKNOWN
    if not known.any():
        raise UserError(f"{labels} has no class for any sample of {config.target}")
    model, step = _selected(task, Path(folder))
    opinion = model.ensemble(target.vectors, step // task.epoch_steps)[known]
    zero_shot = model.zero_shot_logits(target.vectors)[known]
    truth = target.labels[known]
    return {
        "accuracy": float((opinion.argmax(1) == truth).float().mean()),
        "zero_shot": float((zero_shot.argmax(1) == truth).float().mean()),
        "samples": float(known.sum()),
    }


def _selected(task: AdaptTask, folder: Path) -> tuple[UniMoS, int]:
    """The last checkpoint, or the one with the most information about the unlabelled target, and
    its step.
    """
    paths = list_checkpoints(folder / "checkpoints")
    if not paths:
        raise UserError(f"no checkpoint in {folder}")
    best: tuple[float, UniMoS, int] | None = None
    for path in paths if task.config.select == "information" else paths[-1:]:
        model = task.model()
        load_weights(model, path / WEIGHTS_FILE)
        model.eval()
        step = int(path.name.split("_")[1])
        opinion = model.ensemble(task.target.vectors, step // task.epoch_steps)
        score = float(information(opinion))
        if best is None or score > best[0]:
            best = (score, model, step)
    assert best is not None
    return best[1], best[2]


# door of earlier releases: python -m fourm.alignment.adapt is fourm adapt
main = door("adapt")

if __name__ == "__main__":
    main()
