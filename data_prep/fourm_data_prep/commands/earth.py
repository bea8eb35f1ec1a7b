"""``fourm earth [fetch|tiles|run]``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb(resumes=True)
@click.argument("action", type=click.Choice(["fetch", "tiles", "run"]), default="run")
@click.option("--out", type=PATH, default="runs/earth", help="Project folder.")
@click.option("--size", type=click.Choice(["smoke", "default"]), default="default")
@click.option("--source", type=PATH, help="Folder of fetched maps (left out: OUT/source).")
@click.option("--synthetic", is_flag=True, help="Invent a world instead of fetching the real one.")
def command(action: str, out: Path, size: str, source: Path | None, synthetic: bool) -> None:
    """A model of the real Earth, from public maps.

    `fourm earth fetch` gets the maps, `fourm earth tiles` cuts them into tiles of eleven
    modalities, `fourm earth` does all: tokenizers, a model, figures, a page. Where no registry can
    be reached, --synthetic makes a stand-in.
    """
    from fourm_data_prep.earth.run import get_sources, make_tiles, run_earth

    if action == "fetch":
        get_sources(source or out / "source", synthetic)
        return
    make = run_earth if action == "run" else make_tiles
    project = make(out, size, source, synthetic)
    print(f"\nproject: {out} (edit maps.yaml and modalities.yaml, run it again)\n{project.raw}")
