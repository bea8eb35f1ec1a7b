"""``fourm export PROJECT --out DIR``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("project", type=PATH)
@click.option("--out", required=True, type=PATH, help="Pipeline folder.")
@click.option("--half", is_flag=True, help="Store weights in 16 bits.")
def command(project: Path, out: Path, half: bool) -> None:
    """Write a project's newest model as one folder.

    With its tokenizers and sampling settings, as `fourm generate` opens it.
    """
    from fourm.evaluation.project_report import assemble
    from fourm.project import Project

    assemble(Project(project)).save_pretrained(out, half=half)
    print(out)
