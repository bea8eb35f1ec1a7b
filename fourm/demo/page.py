"""The page about a model of the demo world."""

from __future__ import annotations

from typing import Any

from fourm.demo.goals import HEADLINES, goals_of
from fourm.demo.tasks import Examination
from fourm.evaluation.sections import (
    add_reconstructions,
    add_token_matrix,
    add_training,
    facts,
)
from fourm.project.project import Project
from fourm.report import Gallery, Report
from fourm.report.figures import read_figures

_ROWS = 10
_FROM_PICTURES = ("depth", "normal", "semseg", "boxes", "caption")
_RECONSTRUCTED = 64


def write_page(
    project: Project,
    examination: Examination,
    metrics: dict[str, Any],
    matrix: dict[str, dict[str, float]],
) -> None:
    """``report.html`` of the project."""
    pipe, scenes = examination.pipe, examination.scenes
    goals = goals_of(metrics)
    found = {(f.task, f.metric): f for f in read_figures(metrics, goals)}
    report = Report(
        "FourM on the demo world",
        f"{len(scenes)} held-out scenes of seed {scenes.seed}; every scene is new to the model",
        facts(project, pipe.model),
        [found[name] for name in HEADLINES if name in found],
    )
    report.gallery(_pictures(examination))
    report.gallery(_from_pictures(examination))
    report.heading(
        "Figures",
        "Baseline: the training set's mean map, or the same outputs against shuffled truth. Bound:"
        " the tokenizer's reconstruction of the truth. ±: by chance, with so many samples.",
    )
    report.figures(metrics, goals)
    add_token_matrix(report, matrix)
    some = {name: values[:_RECONSTRUCTED] for name, values in scenes.raw.items()}
    add_reconstructions(report, pipe, some)
    report.modalities(pipe.modalities)
    add_training(report, project, pipe.modalities)
    report.write(project.report)


def _pictures(examination: Examination) -> Gallery:
    given, outputs = examination.scenes.raw, examination.outputs
    spec = {m.name: m.raw for m in examination.pipe.modalities}
    chain = outputs["caption->depth->rgb"]
    gallery = Gallery(
        "Caption -> rgb, caption -> depth -> rgb, boxes -> rgb",
        ["caption", "rgb", "depth", "then rgb", "boxes given", "rgb", "true scene"],
    )
    for i in range(min(_ROWS, len(examination.scenes))):
        gallery.rows.append(
            [
                given["caption"][i],
                (outputs["caption->rgb"]["rgb"][i], spec["rgb"]),
                (chain["depth"][i], spec["depth"]),
                (chain["rgb"][i], spec["rgb"]),
                (given["boxes"][i], spec["boxes"]),
                (outputs["boxes->rgb"]["rgb"][i], spec["rgb"]),
                (given["rgb"][i], spec["rgb"]),
            ]
        )
    return gallery


def _from_pictures(examination: Examination) -> Gallery:
    given, outputs = examination.scenes.raw, examination.outputs
    spec = {m.name: m.raw for m in examination.pipe.modalities}
    columns = ["rgb given", *(c for name in _FROM_PICTURES for c in (name, f"{name}: truth"))]
    gallery = Gallery("rgb -> depth, normals, classes, boxes, caption", columns)
    for i in range(min(_ROWS, len(examination.scenes))):
        row: list[Any] = [(given["rgb"][i], spec["rgb"])]
        for name in _FROM_PICTURES:
            row.append((outputs[f"rgb->{name}"][name][i], spec[name]))
            row.append((given[name][i], spec[name]))
        gallery.rows.append(row)
    return gallery
