"""``fourm finetune CONFIG [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

from fourm.cli.verb import takes_config, verb


@verb(resumes=True)
@takes_config
def command(config: Path, overrides: list[str]) -> None:
    """Teach a trained model one more task.

    With a head on its encoder (classes, maps) or by its own decoder; all of it, the head alone, or
    adapters. CONFIG is a YAML file as in configs/finetune; KEY=VALUE changes it, e.g. labels=100.
    Writes done.json and a model folder.
    """
    from fourm.config import load
    from fourm.finetune.config import FinetuneConfig
    from fourm.finetune.run import finetune

    given = load(FinetuneConfig, config, overrides)
    judged = finetune(given)
    if judged is not None:
        print(f"{judged.text()}\nmodel: {given.out}/model, figures: {given.out}/done.json")
