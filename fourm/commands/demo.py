"""``fourm demo [evaluate] [--size SIZE] [--out DIR]``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, SEED, verb


@verb(resumes=True)
@click.argument("action", type=click.Choice(["run", "evaluate"]), default="run")
@click.option("--size", default="default", help="run: smoke, default or large.")
@click.option("--out", type=PATH, default="runs/demo", help="Project folder.")
@click.option("--seed", type=SEED, default=0, help="evaluate: seed of the scenes.")
@click.option("--scenes", type=COUNT, default=256, help="evaluate: number of scenes.")
@click.option(
    "--json",
    "figures",
    type=PATH,
    help="evaluate: where the figures go (left out: OUT/metrics-SEED.json).",
)
def command(
    action: str, size: str, out: Path, seed: int, scenes: int, figures: Path | None
) -> None:
    """Render a small world, learn it, and report.

    `fourm demo evaluate` judges a finished run on other scenes.
    """
    if action == "run":
        from fourm.demo.run import run_demo

        run_demo(size, out)
        return
    from fourm.demo.examine import evaluate, print_summary
    from fourm.project.project import Project

    print_summary(evaluate(Project(out), seed, scenes, figures or out / f"metrics-{seed}.json"))
