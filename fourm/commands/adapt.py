"""``fourm adapt CONFIG [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

from fourm.cli.verb import takes_config, verb


@verb(resumes=True)
@takes_config
def command(config: Path, overrides: list[str]) -> None:
    """Adapt latents to an unlabelled domain (UniMoS).

    CONFIG is a YAML file as in configs/alignment; KEY=VALUE changes it, e.g. loop.steps=1000.
    """
    from fourm.alignment.adapt import AdaptConfig, adapt
    from fourm.config import load

    adapt(load(AdaptConfig, config, overrides))
