"""``fourm clean PROJECT``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb()
@click.argument("project", type=PATH)
@click.option("--yes", is_flag=True, help="Remove it; without this it is only named.")
def command(project: Path, yes: bool) -> None:
    """Name what a project does not need any more.

    With its size: replaced tokenizers, runs before the newest, tokens of modalities that are gone,
    columns that nothing reads. --yes removes it.
    """
    from fourm.project.clean import find_unused, remove, told_size
    from fourm.project.project import Project

    unused = find_unused(Project(project))
    for item in unused:
        print(f"{told_size(item.size):>10}  {item.path}  ({item.why})")
    size = told_size(sum(item.size for item in unused))
    if yes:
        remove(Project(project), unused)
        print(f"removed: {size}")
    else:
        again = f": fourm clean {project} --yes removes it" if unused else ""
        print(f"unused: {size}{again}")
