"""``fourm quickstart FOLDER``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SHARE, verb


@verb(resumes=True)
@click.argument("folder", type=PATH)
@click.option("--out", type=PATH, default="runs/quickstart", help="Project folder.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    help="About how long to pretrain on this machine; below 10, tokenizers train for less, too.",
)
@click.option(
    "--max-damage",
    type=SHARE,
    default=0.05,
    help="Largest share of pictures that may be unreadable.",
)
def command(folder: Path, out: Path, minutes: float, max_damage: float) -> None:
    """From a folder of pictures to a small model.

    And to its report. FOLDER holds pictures (jpg, png, webp), with captions in NAME.txt or one CSV.
    """
    from fourm_data_prep.quickstart import quickstart

    quickstart(folder, out, minutes, max_damage)
