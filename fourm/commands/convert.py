"""``fourm convert MODEL OUT [--to fourm|released]``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb
from fourm.errors import UserError


@verb()
@click.argument("model")
@click.argument("out", type=PATH)
@click.option(
    "--to",
    "form",
    type=click.Choice(["fourm", "released"]),
    default="fourm",
    help="Format to write.",
)
def command(model: str, out: Path, form: str) -> None:
    """Convert a model from or to the released 4M format.

    MODEL is a model folder, a safetensors file or a hub id, of either format; OUT the folder to
    write.
    """
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    if not Path(model).exists() and not is_hub_id:
        raise UserError(f"no model folder or file {model}")

    from fourm.interop.released import save_released
    from fourm.model.model import FourM

    converted = FourM.from_pretrained(model)
    if form == "released":
        save_released(converted, out)
    else:
        converted.save_pretrained(out)
    print(out)
