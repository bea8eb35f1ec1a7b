"""``fourm evaluate-adaptation RUN --labels FILE``"""

from __future__ import annotations

import json
from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("run", type=PATH)
@click.option("--labels", required=True, type=PATH, help="CSV with the target's classes.")
def command(run: Path, labels: Path) -> None:
    """Accuracy of an adaptation on its target.

    RUN is the folder of the run.
    """
    from fourm.alignment.adapt import accuracy

    print(json.dumps(accuracy(run, labels), indent=1))
