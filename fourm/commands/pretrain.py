"""``fourm pretrain CONFIG [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

from fourm.cli.verb import takes_config, verb


@verb(resumes=True)
@takes_config
def command(config: Path, overrides: list[str]) -> None:
    """Pretrain a model by masked modelling.

    CONFIG is a YAML file as in configs/pretrain; KEY=VALUE changes it, e.g. loop.steps=1000. On
    several GPUs or machines: accelerate launch -m fourm pretrain CONFIG.
    """
    from fourm.config import load
    from fourm.training.pretrain import PretrainConfig, pretrain

    pretrain(load(PretrainConfig, config, overrides))
