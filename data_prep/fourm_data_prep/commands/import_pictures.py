"""``fourm import SOURCE --config FILE --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SHARE, verb
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("source")
@click.option(
    "--config",
    required=True,
    type=PATH,
    help="YAML file of modalities: what is made of each picture.",
)
@click.option(
    "--size",
    type=click.IntRange(min=0),
    default=0,
    help="Store the widest modality at this many pixels, for crops later; 0 = its own size.",
)
@click.option("--out", required=True, type=PATH, help="Folder of raw shards.")
@click.option(
    "--max-damage",
    type=SHARE,
    default=0.05,
    help="Largest share of pictures that may be unreadable.",
)
@takes_engine
def command(
    source: str, config: Path, size: int, out: Path, max_damage: float, engine: EngineConfig
) -> None:
    """Pictures and captions to raw shards.

    SOURCE is a folder of pictures (captions in NAME.txt or a table), a table, a folder of tars,
    hf:DATASET[:SPLIT], or a YAML file of rasters that tiles are cut from.
    """
    from fourm_data_prep.importing import import_pictures

    import_pictures(source, config, out, max_damage, engine, size)
