"""``fourm train-tokenizer CONFIG [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, takes_config, verb


@verb(resumes=True)
@takes_config
@click.option("--raw", type=PATH, help="Folder of raw shards (left out: the config's).")
@click.option("--out", type=PATH, help="Folder of tokenizers (left out: the config's).")
@click.option("--only", multiple=True, help="Train this tokenizer alone (may be given again).")
@click.option("--cache", type=PATH, default=".cache/fourm/columns", help="Folder of columns.")
def command(
    config: Path,
    overrides: list[str],
    raw: Path | None,
    out: Path | None,
    only: tuple[str, ...],
    cache: Path,
) -> None:
    """Train the tokenizers of a modality set.

    CONFIG is a YAML file of modalities as in configs/tokenizers; KEY=VALUE changes the tokenizers'
    settings, e.g. train.steps=500.
    """
    from fourm_tokenizers.train import train_tokenizers

    train_tokenizers(config, raw, out, cache, only, overrides)
