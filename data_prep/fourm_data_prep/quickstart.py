"""``fourm quickstart FOLDER``: five commands in a row, from pictures with captions to a trained
model and its report.

What it makes is an ordinary project (``fourm.project.run``) whose raw shards are imported from the
folder: edit its YAML files and run it again. What the edit concerns is told in a table and made
again, all else is kept.
"""

from __future__ import annotations

from pathlib import Path

from fourm.errors import UserError
from fourm.project.project import Project, command_line, run_all
from fourm.project.run import Making, Wishes, run_project
from fourm.resources import configs_folder


def quickstart(folder: Path, out: Path, minutes: float, max_damage: float) -> None:
    """Run the five stages; those that are done are skipped."""
    project = Project(out)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    project.belongs_to(str(folder.resolve()))
    project.write_configs(configs_folder(), "quickstart")
    places = ("--config", project.modalities, "--out", project.raw)
    importing = command_line("import", folder, *places, "--max-damage", str(max_damage))
    run_project(out, Wishes(minutes=minutes), Making(raw=lambda: run_all([importing])))
