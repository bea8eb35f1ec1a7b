"""The page about a model of the Earth: held-out blocks beside the truth, the same coast under other
climates, what is filled in, what captions give, and the figures.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm.evaluation.matrix.figures import Matrix
from fourm.evaluation.matrix.page import add_answers
from fourm.evaluation.sections import add_reconstructions, add_training, facts
from fourm.pipeline.pipeline import Partial
from fourm.project.project import Project
from fourm.raw.labels import Labels
from fourm.report import Gallery, Report, embed
from fourm.report.figures import read_figures
from fourm.report.legend import legend_html
from fourm_data_prep.earth import drawn
from fourm_data_prep.earth.mosaic import mosaic
from fourm_data_prep.earth.tasks import Examination

_ROWS = 8
_RECONSTRUCTED = 64
_CLIMATES = ("Af", "BWh", "Cfb", "Dfc", "ET")  # rainforest, desert, oceanic, subarctic, tundra
HEADLINES = (
    ("rgb->land_cover", "accuracy"),
    ("rgb->land_cover", "miou"),
    ("rgb->climate", "accuracy"),
    ("land_cover+height->rgb", "psnr"),
)
GOALS = {
    ("rgb->land_cover", "accuracy"): (">=", 0.66),
    ("rgb->climate", "accuracy"): (">=", 0.60),
    ("land_cover+height->rgb", "psnr"): (">=", 22.5),
}
ALL_GOALS = {**GOALS, **drawn.GOALS}


def write_page(
    project: Project, examination: Examination, metrics: dict[str, Any], matrix: Matrix
) -> None:
    """``report.html`` of the project."""
    pipe, tiles = examination.pipe, examination.held_out
    found = {(f.task, f.metric): f for f in read_figures(metrics, ALL_GOALS)}
    report = Report(
        "FourM on the Earth",
        f"{len(tiles)} tiles of held-out blocks: no training tile touches the ground they show.",
        facts(project, pipe.model),
        [found[name] for name in HEADLINES if name in found],
    )
    _add_world(report, examination)
    _add_maps(report, examination)
    _add_climates(report, examination)
    _add_filled(report, examination)
    _add_captions(report, examination)
    report.heading(
        "Figures",
        "Baseline: the best of the commonest class or mean map, the nearest training tiles, and"
        " (from rgb) a table of training colours. Bound: the tokenizer's reconstruction.",
    )
    report.figures(metrics, ALL_GOALS)
    add_answers(
        report,
        matrix,
        f"{matrix.num_samples} held-out tiles that have every modality; one answer for each. Below"
        " a figure what costs nothing and comes nearest: the nearest training tiles (the"
        " coordinates alone), a table of training colours, the commonest class or the mean"
        " (constant), another tile's condition (shuffled). Amber: some figure of the"
        " cell is no better.",
    )
    add_reconstructions(
        report, pipe, {name: v[:_RECONSTRUCTED] for name, v in tiles.values.items()}
    )
    report.modalities(pipe.modalities)
    add_training(report, project, pipe.modalities)
    report.write(project.report)


def _add_world(report: Report, examination: Examination) -> None:
    tiles, train = examination.held_out, examination.train
    report.heading(
        "The world",
        "Held-out tiles where they lie, from rgb and in truth; pale: the ground of training tiles.",
    )
    ground = mosaic(train.tiles, train.values["rgb"], examination.pipe.modalities["rgb"].raw)
    for target in ("land_cover", "climate"):
        got = examination.outputs.get(f"rgb->{target}")
        if got is None:
            continue
        raw = examination.pipe.modalities[target].raw
        for title, values in (("from rgb", got), ("truth", tiles.values[target])):
            report.part(f"{target}: {title}")
            world = mosaic(tiles.tiles, list(values), raw, ground)
            report.parts.append(embed(world, f"{target}, {title}", world.width // 2))
        report.parts.append(legend_html(raw.legend(), target))


def _add_maps(report: Report, examination: Examination) -> None:
    tiles, pipe = examination.held_out, examination.pipe
    targets = [t for t in ("land_cover", "climate", "height", "relief") if t in tiles.values]
    columns = ["rgb (given)", *(c for t in targets for c in (t, f"{t}: truth"))]
    gallery = Gallery("rgb -> maps", columns)
    for i in _some(len(tiles)):
        row: list[Any] = [(tiles.values["rgb"][i], pipe.modalities["rgb"].raw)]
        for target in targets:
            raw = pipe.modalities[target].raw
            row += [
                (examination.outputs[f"rgb->{target}"][i], raw),
                (tiles.values[target][i], raw),
            ]
        gallery.rows.append(row)
    report.gallery(gallery)


def _add_climates(report: Report, examination: Examination) -> None:
    """The same ground with all its land under one climate."""
    tiles, pipe = examination.held_out, examination.pipe
    labels, rgb = pipe.modalities["climate"].raw, pipe.modalities["rgb"].raw
    assert isinstance(labels, Labels)
    ocean = labels.classes.index("ocean")
    coasts = [
        i for i, m in enumerate(tiles.values["climate"]) if 0.15 < float((m == ocean).mean()) < 0.6
    ]
    gallery = Gallery(
        "The same coast under another climate",
        ["height", "true climate", "true rgb", *_CLIMATES],
        note="rgb from height and a climate map whose land is all of one class.",
    )
    for i in coasts[:: max(1, len(coasts) // _ROWS)][:_ROWS]:
        height, climate = tiles.values["height"][i], tiles.values["climate"][i]
        changed = [
            np.where(climate == ocean, climate, labels.classes.index(name)).astype(climate.dtype)
            for name in _CLIMATES
        ]
        given = {"height": [height] * len(changed), "climate": changed}
        made = pipe(given, ["rgb"], seed=i)["rgb"].values
        row: list[Any] = [(height, pipe.modalities["height"].raw), (climate, labels)]
        gallery.rows.append([*row, (tiles.values["rgb"][i], rgb), *((v, rgb) for v in made)])
    report.gallery(gallery)


def _add_filled(report: Report, examination: Examination) -> None:
    """The middle of the picture taken out and made again, with and without the maps."""
    tiles, pipe = examination.held_out, examination.pipe
    raw = pipe.modalities["rgb"].raw
    grid = pipe.modalities["rgb"].grid
    assert grid is not None
    keep = np.ones(grid, bool)
    keep[grid[0] // 4 : -grid[0] // 4, grid[1] // 4 : -grid[1] // 4] = False
    shown = np.repeat(np.repeat(keep, raw.pixels // grid[0], 0), raw.pixels // grid[1], 1)
    gallery = Gallery(
        "Filled in",
        ["given", "filled", "filled, given land cover and height too", "truth"],
        note="The middle quarter is taken out and made again.",
    )
    for i in _some(len(tiles)):
        picture = tiles.values["rgb"][i]
        alone = {"rgb": Partial(picture, keep)}
        helped = {**alone, **{n: tiles.values[n][i] for n in ("land_cover", "height")}}
        made = [pipe(given, ["rgb"], seed=i)["rgb"].values[0] for given in (alone, helped)]
        gap = np.where(shown[..., None], picture, 200).astype(np.uint8)
        gallery.rows.append([(v, raw) for v in (gap, *made, picture)])
    report.gallery(gallery)


def _add_captions(report: Report, examination: Examination) -> None:
    tiles, pipe = examination.held_out, examination.pipe
    raw = pipe.modalities["rgb"].raw
    names = [f"sample {i + 1}" for i in range(4)]
    gallery = Gallery("caption -> rgb", ["caption", *names, "the tile it tells of"])
    for i in _some(len(tiles)):
        text = tiles.values["caption"][i]
        made = pipe({"caption": text}, ["rgb"], seed=i, num_samples=4)["rgb"].values
        gallery.rows.append([text, *((v, raw) for v in made), (tiles.values["rgb"][i], raw)])
    report.gallery(gallery)


def _some(num: int) -> range:
    return range(0, num, max(1, num // _ROWS))[:_ROWS]
