"""``fourm inspect RAW --config FILE``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("raw", type=PATH)
@click.option("--config", required=True, type=PATH, help="YAML file of modalities.")
@click.option("--out", type=PATH, help="Page to write (left out: RAW/inspect.html).")
def command(raw: Path, config: Path, out: Path | None) -> None:
    """Count raw shards and show samples on a page.

    RAW is a folder of raw shards; all its modalities are shown.
    """
    from fourm_data_prep.inspect import inspect

    page = out or raw / "inspect.html"
    for count in inspect(raw, config, page):
        print(
            f"{count.split:<6} {count.modality:<12} {count.samples:>9,} samples"
            f" {count.shards:>6} shards {count.damaged:>6} damaged {count.megabytes:>10.1f} MB"
        )
    print(page)
