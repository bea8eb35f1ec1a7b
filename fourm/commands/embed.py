"""``fourm embed RUN --modality NAME --latents DIR --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("run", type=PATH)
@click.option("--modality", required=True, help="Whose connector maps them.")
@click.option("--latents", required=True, type=PATH, help="Folder of latents.")
@click.option("--to", default="", help="Alt-MoE: in whose space; left out: its own, to be found.")
@click.option("--out", required=True, type=PATH, help="Folder of the mapped latents.")
def command(run: Path, modality: str, latents: Path, to: str, out: Path) -> None:
    """Map latents into an alignment's space.

    RUN is the folder of the run.
    """
    from fourm.alignment.align import embed_latents

    print(f"{embed_latents(run, modality, latents, out, to)} latents in {out}")
