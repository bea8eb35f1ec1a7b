"""``fourm tokenize PROJECT``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, SHARE, verb
from fourm.errors import UserError
from fourm_data_prep.engine_options import EngineConfig, takes_engine


@verb(resumes=True)
@click.argument("project", type=PATH, required=False)
@click.option("--config", type=PATH, help="YAML file of modalities (left out: PROJECT's).")
@click.option("--raw", type=PATH, help="Folder of raw shards (left out: PROJECT's).")
@click.option("--tokenizers", type=PATH, help="Folder of tokenizers (left out: PROJECT's).")
@click.option("--out", type=PATH, help="Folder of token shards (left out: PROJECT's).")
@click.option(
    "--max-damage", type=SHARE, default=0.05, help="Largest share of samples that may be skipped."
)
@click.option("--only", multiple=True, help="Tokenize this modality alone (may be given again).")
@click.option(
    "--crops", type=COUNT, default=1, help="Crops of each picture: the whole one and random ones."
)
@click.option("--flip", is_flag=True, help="Mirror half of the random crops.")
@click.option(
    "--chunk-shards",
    type=COUNT,
    default=2048,
    help="Raw shards whose tokens one chunk has (2048 of 512 samples: a million).",
)
@takes_engine
def command(
    project: Path | None,
    config: Path | None,
    raw: Path | None,
    tokenizers: Path | None,
    out: Path | None,
    max_damage: float,
    only: tuple[str, ...],
    crops: int,
    flip: bool,
    chunk_shards: int,
    engine: EngineConfig,
) -> None:
    """Raw shards to token shards.

    PROJECT is a project folder; without one, all four places have to be named.
    """
    if project is not None:
        from fourm.project.project import Project

        found = Project(project)
        config, raw = config or found.modalities, raw or found.raw
        tokenizers, out = tokenizers or found.tokenizers, out or found.tokens
    if config is None or raw is None or tokenizers is None or out is None:
        raise UserError("where? give PROJECT, or --config, --raw, --tokenizers and --out")
    from fourm_data_prep.tokenize import tokenize

    tokenize(config, raw, tokenizers, out, max_damage, engine, crops, flip, chunk_shards, only)
