"""``fourm evaluate-alignment RUN``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from fourm.cli.verb import PATH, verb
from fourm.errors import UserError


@verb()
@click.argument("run", type=PATH)
@click.option(
    "--latents",
    multiple=True,
    metavar="NAME=DIR",
    help="Other latents, one folder for each modality: all of them are judged.",
)
@click.option("--split", default="", help="Split of the data that is judged, e.g. val.")
def command(run: Path, latents: tuple[str, ...], split: str) -> None:
    """Recalls of an alignment on held-out subjects.

    RUN is the folder of the run.
    """
    from fourm.alignment.align import figures_on_test

    for pair in latents:
        if not all(pair.partition("=")):
            raise UserError(f"--latents takes NAME=DIR, not {pair}")
    others = dict(pair.split("=", 1) for pair in latents)
    print(json.dumps(figures_on_test(run, others, split), indent=1))
