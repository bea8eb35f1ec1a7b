"""``fourm latents RAW --config FILE --modality NAME --encoder NAME --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SHARE, verb
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("raw", type=PATH)
@click.option("--config", required=True, type=PATH, help="YAML file of modalities.")
@click.option("--modality", required=True, help="What is encoded: pictures or text.")
@click.option(
    "--encoder",
    required=True,
    help="efficientnet, minilm, features:NETWORK, sentence:NETWORK, fourm:FOLDER ...",
)
@click.option("--out", required=True, type=PATH, help="Folder of latents.")
@click.option("--tokens", is_flag=True, help="Keep a vector for each token instead of their mean.")
@click.option("--full", is_flag=True, help="Store 32 bits a number instead of 16.")
@click.option(
    "--equal-as-one", is_flag=True, help="Samples of the same text are one group: each is right."
)
@click.option(
    "--max-damage", type=SHARE, default=0.05, help="Largest share of samples that may fail."
)
@takes_engine
def command(
    raw: Path,
    config: Path,
    modality: str,
    encoder: str,
    out: Path,
    tokens: bool,
    full: bool,
    equal_as_one: bool,
    max_damage: float,
    engine: EngineConfig,
) -> None:
    """Cache the latents of a frozen encoder.

    To align encoders with. RAW is a folder of raw shards.
    """
    from fourm_data_prep.latents import cache_latents

    cache_latents(
        raw,
        config,
        modality,
        encoder,
        out,
        tokens=tokens,
        half=not full,
        equal_as_one=equal_as_one,
        max_damage=max_damage,
        engine=engine,
    )
    print(out)
