"""``fourm run PROJECT [KEY=VALUE]...``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, verb


@verb(resumes=True)
@click.argument("project", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--only",
    multiple=True,
    metavar="STAGE",
    help="Tokenizers, tokens, model or report alone (several with commas, or given again).",
)
@click.option("--from", "start", default="", metavar="STAGE", help="Pass over the stages before.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    show_default="what pretrain.yaml says; 10 where there is none",
    help="About how long to pretrain on this machine; below 10, tokenizers train for less, too.",
)
def command(
    project: Path,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    start: str,
    minutes: float | None,
) -> None:
    """Raw shards to a model and its report.

    Tokenizers, tokens, model, report. PROJECT is a folder with modalities.yaml and raw shards; what
    else it lacks is written into it.
    What is up to date is kept, so run it again after an edit or an interruption. KEY=VALUE changes
    pretrain.yaml for this run.
    """
    from fourm.project.run import Wishes, run_project

    stages = tuple(name.strip() for names in only for name in names.split(",") if name.strip())
    wishes = Wishes(only=stages, start=start, minutes=minutes, overrides=overrides)
    run_project(project, wishes)
