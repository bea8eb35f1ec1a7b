"""Judge a trained demo project on held-out scenes and write its report and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fourm.data.shards import write_json_atomic
from fourm.data.store import Source, SourceConfig
from fourm.demo.tasks import Examination, held_out_scenes
from fourm.evaluation.matrix.scores import token_matrix
from fourm.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar
from fourm.project import Project
from fourm.report import Gallery, Report, read_curves

GOALS = {
    ("rgb", "psnr"): (">=", 25.0),
    ("rgb->depth", "absrel_object"): ("<=", 0.085),
    ("rgb->depth", "absrel"): ("<=", 0.045),
    ("rgb->depth", "delta1"): (">=", 0.96),
    ("rgb->normal", "angle_object"): ("<=", 18.5),
    ("rgb->normal", "angle"): ("<=", 6.5),
    ("rgb->semseg", "miou"): (">=", 0.75),
    ("rgb->caption", "attribute_f1"): (">=", 0.82),
    ("rgb->boxes", "f1_50"): (">=", 0.85),
}
BOUND_SHARES = {
    "caption->rgb": 0.85,
    "caption->depth->rgb": 0.65,
    "boxes->rgb": 0.65,
}  # of the judge's score on reconstructions


_MATRIX_SAMPLES = 48
_GALLERY_ROWS = 10


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
    _write_report(project, examination, metrics, matrix)
    return metrics


def goals_of(metrics: dict[str, Any]) -> dict[tuple[str, str], tuple[str, float]]:
    """Goals of every figure; those of generated pictures are shares of the judge's bound, and at
    least 4 x shuffled.
    """
    goals = dict(GOALS)
    for task, share in BOUND_SHARES.items():
        if task in metrics:
            figure = metrics[task]["attribute_accuracy"]
            goals[(task, "attribute_accuracy")] = (
                ">=",
                max(share * figure["bound"], 4 * figure["baseline"]),
            )
    return goals


def _write_report(
    project: Project,
    examination: Examination,
    metrics: dict[str, Any],
    matrix: dict[str, dict[str, float]],
) -> None:
    pipe, scenes = examination.pipe, examination.scenes
    modalities = pipe.modalities
    report = Report(
        "FourM on the demo world",
        f"{len(scenes)} held-out scenes of seed {scenes.seed}; every scene is new to the model",
    )
    spec = {m.name: m.raw for m in modalities}
    pictures = Gallery(
        "Caption -> rgb, caption -> depth -> rgb, boxes -> rgb",
        ["caption", "rgb", "depth", "then rgb", "boxes given", "rgb", "true scene"],
    )
    for i in range(min(_GALLERY_ROWS, len(scenes))):
        chain = examination.outputs["caption->depth->rgb"]
        pictures.rows.append(
            [
                scenes.raw["caption"][i],
                (examination.outputs["caption->rgb"]["rgb"][i], spec["rgb"]),
                (chain["depth"][i], spec["depth"]),
                (chain["rgb"][i], spec["rgb"]),
                (scenes.raw["boxes"][i], spec["boxes"]),
                (examination.outputs["boxes->rgb"]["rgb"][i], spec["rgb"]),
                (scenes.raw["rgb"][i], spec["rgb"]),
            ]
        )
    report.gallery(pictures)
    for name in ("depth", "normal", "semseg", "boxes", "caption"):
        gallery = Gallery(f"rgb -> {name}", ["rgb given", "generated", "truth"] * 2)
        got = examination.outputs[f"rgb->{name}"][name]
        cells = [
            [
                (scenes.raw["rgb"][i], spec["rgb"]),
                (got[i], spec[name]),
                (scenes.raw[name][i], spec[name]),
            ]
            for i in range(min(8, len(scenes)))
        ]
        gallery.rows = [
            cells[i] + (cells[i + 1] if i + 1 < len(cells) else []) for i in range(0, len(cells), 2)
        ]
        report.gallery(gallery)
    report.heading(
        "Figures",
        "Baseline: the training set's mean map, or the same outputs against shuffled truth. Bound:"
        " the tokenizer's reconstruction of the truth.",
    )
    report.figures(metrics, goals_of(metrics))
    report.heading(
        "Any to any",
        "Cross-entropy in nats a token of each target given one whole input; shaded by what the"
        " input tells over nothing.",
    )
    report.matrix(matrix)
    report.heading("Training")
    report.curves("pretraining loss (nats a token)", read_curves(project.pretrain / "log.jsonl"))
    for name in modalities.tokenizers:
        log = project.tokenizers / name / "training" / "log.jsonl"
        if log.is_file():
            report.curves(f"tokenizer of {name}", {"loss": read_curves(log).get("loss", [])})
    report.modalities(modalities)
    report.heading("Seconds")
    seconds = {**project.seconds(), **{f"evaluate: {k}": v for k, v in examination.seconds.items()}}
    report.table(["stage", "seconds"], [[k, f"{v:.0f}"] for k, v in seconds.items()])
    report.write(project.report)


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
