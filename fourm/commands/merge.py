"""``fourm merge FOLDER --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("folder", type=PATH)
@click.option("--out", required=True, type=PATH, help="Model folder.")
def command(folder: Path, out: Path) -> None:
    """Write adapters and the model they belong to as one.

    FOLDER is a checkpoint of a run with `lora:`, or any folder of adapters.
    """
    from fourm.errors import UserError
    from fourm.files.model_files import ADAPTERS_FILE
    from fourm.model.model import load_model

    if not (folder / ADAPTERS_FILE).is_file():
        raise UserError(f"{folder} has no adapters ({ADAPTERS_FILE}): there is nothing to merge")
    load_model(folder).save_pretrained(out)
    print(out)
