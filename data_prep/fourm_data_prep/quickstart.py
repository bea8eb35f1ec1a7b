"""``fourm quickstart FOLDER``: five commands in a row, from pictures with captions to a trained
model and its report.

What it makes is an ordinary project: edit its YAML files, add shards, run the commands again.
"""

from __future__ import annotations

import os
from pathlib import Path

from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.project import (
    Project,
    command_line,
    have_tokenizers,
    pretrain_command,
    run_all,
    tokenize_command,
    tokenizer_commands,
)
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
    modalities = ModalitySet.load(project.modalities)
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
    training = pretrain_command(project, (f"loop.steps={pretraining}",))

    project.stage("import", lambda: run_all([importing]), (project.raw / "done.json").is_file)
    project.stage(
        "tokenizers",
        lambda: run_all(tokenizers, at_once=cores, threads=1),
        lambda: have_tokenizers(project, modalities),
    )
    project.stage(
        "tokenize",
        lambda: run_all([tokenize_command(project)]),
        (project.tokens / "done.json").is_file,
    )
    project.stage(
        "pretrain",
        lambda: run_all([training], threads=cores),
        (project.pretrain / "done.json").is_file,
    )
    project.stage("report", lambda: run_all([command_line("report", out)]), project.report.is_file)
    print(
        f"\nproject: {out} (edit modalities.yaml and pretrain.yaml, then run the commands above"
        f" again)\nreport:  {project.report}"
    )
