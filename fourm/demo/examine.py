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
from fourm.evaluation.matrix import token_matrix
from fourm.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar
from fourm.project import Project

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
    """The figures that matter, one a line."""
    goals = goals_of(metrics)
    print(
        f"\n{'task':22s} {'metric':20s} {'value':>8s} {'goal':>9s} {'baseline':>9s} {'bound':>7s}"
    )
    for (task, metric), (sign, goal) in goals.items():
        figure = metrics[task][metric]
        met = figure["value"] >= goal if sign == ">=" else figure["value"] <= goal
        others = [
            f"{figure[k]:.3f}" if figure[k] is not None else "-" for k in ("baseline", "bound")
        ]
        print(
            f"{task:22s} {metric:20s} {figure['value']:8.3f} {sign} {goal:6.3f} {others[0]:>9s}"
            f" {others[1]:>7s}{'' if met else '   missed'}"
        )
    seconds = metrics.get("seconds", {})
    if seconds:
        print(
            "seconds: "
            + ", ".join(f"{k} {v:.0f}" for k, v in seconds.items())
            + f"; in all {sum(seconds.values()):.0f}"
        )
