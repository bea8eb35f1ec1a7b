"""Judge a trained demo project on held-out scenes and write its report and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fourm.data.shards import write_json_atomic
from fourm.data.store import Source, SourceConfig
from fourm.demo.goals import goals_of
from fourm.demo.held_out import held_out_scenes
from fourm.demo.page import write_page
from fourm.demo.tasks import Examination
from fourm.evaluation.matrix.scores import token_matrix
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar
from fourm.project.project import Project
from fourm.report.figures import read_figures, summary

_MATRIX_SAMPLES = 48


def evaluate(
    project: Project, seed: int, num_scenes: int, metrics_path: Path | None = None
) -> dict[str, Any]:
    """Judge the project's model on ``num_scenes`` fresh scenes of ``seed``.

    Writes ``metrics.json`` and ``report.html`` of the project, or the figures alone to
    ``metrics_path``.
    """
    pipe = AnyToAnyPipeline.from_pretrained(project.model)
    scenes = held_out_scenes(seed, num_scenes, pipe.modalities["rgb"].raw.pixels)
    examination = Examination(pipe, scenes, project.raw, project.cache)
    metrics: dict[str, Any] = dict(examination.run())
    if metrics_path is not None:
        write_json_atomic(metrics_path, metrics)
        return metrics
    source = Source(
        SourceConfig(tokens=str(project.tokens), raw=str(project.raw)),
        "val",
        pipe.modalities,
        project.cache,
        0.05,
    )
    with progress_bar(desc="matrix", unit="pair") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        matrix = token_matrix(pipe.model, source, _MATRIX_SAMPLES, progress)
    write_json_atomic(project.root / "matrix.json", matrix)
    write_json_atomic(project.metrics, metrics)
    write_page(project, examination, metrics, matrix)
    return metrics


def finish_metrics(project: Project) -> dict[str, Any]:
    """``metrics.json`` with the seconds of all stages."""
    metrics = json.loads(project.metrics.read_text())
    metrics["seconds"] = project.seconds()
    write_json_atomic(project.metrics, metrics)
    return metrics


def print_summary(metrics: dict[str, Any]) -> None:
    """The figures that have goals, one a line."""
    figures = read_figures(metrics, goals_of(metrics))
    print(summary(figure for figure in figures if figure.goal is not None))
    seconds = metrics.get("seconds", {})
    if seconds:
        print(
            "seconds: "
            + ", ".join(f"{k} {v:.0f}" for k, v in seconds.items())
            + f"; in all {sum(seconds.values()):.0f}"
        )
