"""Two trained projects side by side: figures of the same name with what chance alone would move
them, and the losses of both over steps.
"""

from __future__ import annotations

import html
import json
import math

from fourm.errors import UserError
from fourm.project.project import Project
from fourm.report import Figure, Report
from fourm.report.curves import Curves, read_curves
from fourm.report.figures import number, read_figures

_SURE = 2.0  # standard deviations of a difference that is told as one


def add_comparison(report: Report, project: Project, other: Project) -> None:
    """A section. Raises UserError if the other project has no run."""
    log = other.pretrain / "log.jsonl"
    if not log.is_file():
        raise UserError(f"{other.root} has no log of a pretraining to compare with: {log}")
    names = project.root.name, other.root.name
    report.heading("Compared", f"{names[0]} beside {names[1]}.")
    report.curves(
        "loss (nats a token)",
        _together(names, read_curves(project.pretrain / "log.jsonl"), read_curves(log)),
    )
    if project.metrics.is_file() and other.metrics.is_file():
        ours, theirs = (_figures(p) for p in (project, other))
        rows = [_row(ours[key], theirs[key]) for key in ours if key in theirs]
        report.table(["task", "metric", *names, "difference"], rows)


def _figures(project: Project) -> dict[tuple[str, str], Figure]:
    metrics = json.loads(project.metrics.read_text())
    return {(figure.task, figure.metric): figure for figure in read_figures(metrics)}


def _together(names: tuple[str, str], ours: Curves, theirs: Curves) -> Curves:
    curves = Curves()
    for name, found in zip(names, (ours, theirs), strict=True):
        if "loss" in found.training:
            curves.training[name] = found.training["loss"]
        if "loss" in found.held_out:
            curves.held_out[name] = found.held_out["loss"]
    return curves


def _row(ours: Figure, theirs: Figure) -> list[str]:
    difference = ours.value - theirs.value
    told = f"{difference:+.3f}"
    if ours.deviation is not None and theirs.deviation is not None:
        deviation = math.hypot(ours.deviation, theirs.deviation)
        sure = abs(difference) > _SURE * deviation
        told += f" ± {deviation:.3f}" + ("" if sure else " (within noise)")
    names = [html.escape(ours.task), html.escape(ours.metric)]
    return [*names, number(ours.value), number(theirs.value), told]
