"""``fourm earth [fetch|tiles]``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb(resumes=True)
@click.argument("action", type=click.Choice(["fetch", "tiles"]), default="tiles")
@click.option("--out", type=PATH, default="runs/earth", help="Project folder.")
@click.option("--size", type=click.Choice(["smoke", "default"]), default="default")
@click.option("--source", type=PATH, help="Folder of fetched maps (left out: OUT/source).")
@click.option("--synthetic", is_flag=True, help="Invent a world instead of fetching the real one.")
def command(action: str, out: Path, size: str, source: Path | None, synthetic: bool) -> None:
    """Maps of the real Earth as tiles of eleven modalities.

    `fourm earth fetch` gets the maps only. Where no registry can be reached, --synthetic makes a
    stand-in.
    """
    from fourm_data_prep.earth.run import get_sources, make_tiles

    if action == "fetch":
        get_sources(source or out / "source", synthetic)
        return
    project = make_tiles(out, size, source, synthetic)
    print(f"\nproject: {out} (edit maps.yaml and modalities.yaml, run it again)\n{project.raw}")
