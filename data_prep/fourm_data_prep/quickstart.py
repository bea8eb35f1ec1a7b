"""``fourm quickstart FOLDER``: five commands in a row, from pictures with captions to a trained
model and its report.

What it makes is an ordinary project: edit its YAML files, add shards, run the commands again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.project import (
    Project,
    have_tokenizers,
    pretrain_command,
    run_all,
    tokenize_command,
    tokenizer_commands,
)
from fourm.resources import configs_folder

_STEPS_A_CORE_MINUTE = 60  # of the quickstart model, measured on one core of a 2024 server CPU


def quickstart(folder: Path, out: Path, minutes: float, max_damage: float) -> None:
    """Run the five stages; those that are done are skipped."""
    project = Project(out)
    if not folder.is_dir():
        raise UserError(f"no folder {folder}")
    project.write_configs(configs_folder(), "quickstart")
    modalities = ModalitySet.load(project.modalities)
    cores = os.cpu_count() or 1
    fourm = [sys.executable, "-m", "fourm.cli"]
    steps = max(20, int(minutes * cores * _STEPS_A_CORE_MINUTE))
    importing = [
        *fourm,
        "import",
        str(folder),
        "--config",
        str(project.modalities),
        "--out",
        str(project.raw),
        "--max-damage",
        str(max_damage),
    ]
    training = pretrain_command(project, cores, (f"loop.steps={steps}",))

    project.stage("import", lambda: run_all([importing]), (project.raw / "done.json").is_file)
    project.stage(
        "tokenizers",
        lambda: run_all(tokenizer_commands(project, modalities), at_once=cores),
        lambda: have_tokenizers(project, modalities),
    )
    project.stage(
        "tokenize",
        lambda: run_all([tokenize_command(project)]),
        (project.tokens / "done.json").is_file,
    )
    project.stage("pretrain", lambda: run_all([training]), (project.pretrain / "done.json").is_file)
    project.stage("report", lambda: run_all([[*fourm, "report", str(out)]]), project.report.is_file)
    print(
        f"\nproject: {out} (edit modalities.yaml and pretrain.yaml, then run the commands above"
        f" again)\nreport:  {project.report}"
    )
