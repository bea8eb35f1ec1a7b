"""``fourm label RAW --config FILE``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SHARE, verb
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("raw", type=PATH)
@click.option("--config", required=True, type=PATH, help="YAML file of modalities.")
@click.option(
    "--only",
    multiple=True,
    help="This modality (may be given again); left out: all that are lacking.",
)
@click.option(
    "--max-damage",
    type=SHARE,
    default=0.05,
    help="Largest share of pictures that may be unreadable.",
)
@takes_engine
def command(
    raw: Path, config: Path, only: tuple[str, ...], max_damage: float, engine: EngineConfig
) -> None:
    """Add modalities to raw shards that exist.

    RAW is a folder of raw shards; what it lacks is made by the labellers of the config.
    """
    from fourm_data_prep.label import label

    label(raw, config, list(only), max_damage, engine)
