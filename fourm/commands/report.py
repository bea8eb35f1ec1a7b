"""``fourm report PROJECT``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("project", type=PATH)
@click.option("--compare", type=PATH, help="another project, to show beside it")
def command(project: Path, compare: Path | None) -> None:
    """Write the report of a project.

    Galleries, curves, the any-to-any matrix. PROJECT is a project folder.
    """
    from fourm.evaluation.project_report import report_project
    from fourm.project.project import Project

    other = None if compare is None else Project(compare)
    print(f"report: {report_project(Project(project), other)}")
