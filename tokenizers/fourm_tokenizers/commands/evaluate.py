"""``fourm evaluate-tokenizer CONFIG``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb
from fourm.errors import UserError


@verb()
@click.argument("config", type=PATH, required=False)
@click.option("--config", "named", type=PATH, help="The same as CONFIG.")
@click.option("--raw", type=PATH, help="Folder of raw shards (left out: the config's).")
@click.option(
    "--tokenizers", type=PATH, help="Folder of trained tokenizers (left out: the config's out)."
)
@click.option("--out", type=PATH, help="Where the figures go (left out: beside the tokenizers).")
@click.option("--split", default="val", help="Which samples.")
@click.option("--num", type=COUNT, default=256, help="Most samples.")
@click.option("--only", multiple=True, help="Judge this modality alone (may be given again).")
@click.option("--cache", type=PATH, default=".cache/fourm/columns", help="Folder of columns.")
def command(
    config: Path | None,
    named: Path | None,
    raw: Path | None,
    tokenizers: Path | None,
    out: Path | None,
    split: str,
    num: int,
    only: tuple[str, ...],
    cache: Path,
) -> None:
    """Judge trained tokenizers on held-out data.

    Writes figures and a picture. CONFIG is the one that the tokenizers were trained with.
    """
    chosen = named or config
    if chosen is None:
        raise UserError("no config: give the YAML file that the tokenizers were trained with")
    from fourm_tokenizers.evaluate import evaluate_all

    for name, figures in evaluate_all(chosen, raw, tokenizers, out, split, num, only, cache):
        print(json.dumps({"modality": name, **figures}, indent=1))
