"""``fourm evaluate-alignment RUN``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("run", type=PATH)
def command(run: Path) -> None:
    """Recalls of an alignment on its test subjects.

    RUN is the folder of the run.
    """
    from fourm.alignment.align import figures_on_test

    print(json.dumps(figures_on_test(run), indent=1))
