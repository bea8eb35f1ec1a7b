"""``fourm quickstart FOLDER``: five commands in a row, from pictures with captions to a trained
model and its report.

What it makes is an ordinary project: edit its YAML files and run it again. What the edit concerns
is told in a table and made again, all else is kept (``fourm.project_edits``).
"""

from __future__ import annotations

import os
from pathlib import Path

from fourm.data.ranges import settle_ranges
from fourm.errors import UserError
from fourm.project import (
    Project,
    command_line,
    cores_of_pretraining,
    have_tokenizers,
    is_newer,
    pretrain_command,
    run_all,
    tokenize_command,
    tokenizer_commands,
)
from fourm.project_edits import Edits, NextRun
from fourm.resources import configs_folder

_STEPS_A_CORE_MINUTE = 60  # of the quickstart model, measured on one core of a 2024 server CPU
_MINUTES = 10.0  # that the steps of the tokenizers in configs/modalities/quickstart.yaml are for
_FEWEST_STEPS = 20


def quickstart(folder: Path, out: Path, minutes: float, max_damage: float) -> None:
    """Run the five stages; those that are done are skipped."""
    project = Project(out)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    project.belongs_to(str(folder.resolve()))
    project.write_configs(configs_folder(), "quickstart")
    edits = Edits(project)
    modalities = edits.modalities
    table = edits.table()
    if table:
        print(f"what the YAML files say now, beside what was made:\n{table}\n", flush=True)
    cores = os.cpu_count() or 1
    pretraining = max(_FEWEST_STEPS, int(minutes * cores * _STEPS_A_CORE_MINUTE))
    share = min(1.0, minutes / _MINUTES)  # of the tokenizers' steps

    def shortened(steps: int) -> tuple[str, ...]:
        kept = max(_FEWEST_STEPS, round(share * steps))
        return (f"train.steps={kept}",) if kept < steps else ()

    importing = command_line(
        "import",
        folder,
        "--config",
        project.modalities,
        "--out",
        project.raw,
        "--max-damage",
        str(max_damage),
    )
    tokenizers = tokenizer_commands(project, modalities, shortened)

    def pretrain(run: NextRun) -> None:
        if run.why:
            print(f"   a new run, {run.out.name}: {run.why}", flush=True)
        steps = f"loop.steps={pretraining}"
        overrides = (steps, *run.overrides(edits.config))
        run_all([pretrain_command(project, overrides)], **cores_of_pretraining(project, cores))

    project.stage("import", lambda: run_all([importing]), lambda: edits.is_made("raw"))
    for line in settle_ranges(project.modalities, project.raw):
        print(line, flush=True)
        edits = Edits(project)  # with the ranges that were auto
        modalities = edits.modalities
    edits.note("raw")
    trained = project.stage(
        "tokenizers",
        lambda: run_all(tokenizers, at_once=cores, threads=1),
        lambda: have_tokenizers(project, modalities),
    )
    project.stage(
        "tokenize",
        lambda: run_all([tokenize_command(project)]),
        lambda: edits.is_made("tokens") and not trained,
    )
    edits.note("tokens")
    next_run = edits.next_run()
    project.stage("pretrain", lambda: pretrain(next_run), lambda: next_run.is_finished)
    edits.note("model")
    project.stage(
        "report",
        lambda: run_all([command_line("report", out)]),
        lambda: is_newer(project.report, next_run.out / "done.json"),
    )
    print(
        f"\nproject: {out} (edit modalities.yaml and pretrain.yaml, then run the commands above, or"
        f" all of it, again)\nreport:  {project.report}"
    )
