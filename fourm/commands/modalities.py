"""``fourm modalities CONFIG``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import verb


@verb()
@click.argument("config")
def command(config: str) -> None:
    """Show the modalities of a config as a table.

    CONFIG is a YAML file, or the name of a built-in set.
    """
    from fourm.modalities import ModalitySet
    from fourm.resources import configs_folder

    built_in = configs_folder() / "modalities" / f"{config}.yaml"
    path = Path(config)
    if not path.is_file() and built_in.is_file():
        path = built_in
    print(ModalitySet.load(path).table())
