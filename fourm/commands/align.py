"""``fourm align CONFIG [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

from fourm.cli.verb import takes_config, verb


@verb(resumes=True)
@takes_config
def command(config: Path, overrides: list[str]) -> None:
    """Align frozen encoders on cached latents.

    With connectors of FuseMix or Alt-MoE. CONFIG is a YAML file as in configs/alignment; KEY=VALUE
    changes it, e.g. loop.steps=1000.
    """
    from fourm.alignment.align import AlignConfig, align
    from fourm.config import load

    align(load(AlignConfig, config, overrides))
