"""``fourm earth``: from nothing to a trained model of the Earth, its figures and a page.

The stages are those of any project (``fourm.project.run``) after two of its own, the maps and the
tiles; each is skipped if it is done, and goes on where it was cut short.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.evaluation.project_report import assemble
from fourm.project.project import Project, command_line, run_all
from fourm.project.run import Making, run_project
from fourm.report.figures import read_figures, summary
from fourm.resources import configs_folder
from fourm_data_prep.earth.drawn import Pictures, drawn_figures
from fourm_data_prep.earth.every_cell import every_cell
from fourm_data_prep.earth.every_cell import summary as summary_of_cells
from fourm_data_prep.earth.fetching import fetch
from fourm_data_prep.earth.maps import Amount, write_maps, write_modalities
from fourm_data_prep.earth.page import ALL_GOALS, write_page
from fourm_data_prep.earth.stand_in import STAND_IN, make_world
from fourm_data_prep.earth.tasks import EXAMINED, Examination
from fourm_data_prep.earth.tiles import read_tiles


@dataclass(frozen=True)
class EarthSize:
    """How much of everything."""

    train: int
    val: int
    examined: int  # of the held-out tiles
    every: int  # of them in every cell of the matrix, and drawn
    overrides: tuple[str, ...] = ()  # of the pretraining
    tokenizer_overrides: tuple[str, ...] = ()

    def amount(self, synthetic: bool) -> Amount:
        """Tiles of the Earth, or of a stand-in, which has only 4 pixels for each degree."""
        real = Amount(self.train, self.val)
        return replace(real, degrees=8.0, block=20.0) if synthetic else real


SIZES = {
    "smoke": EarthSize(
        512, 64, 32, 4, ("loop.steps=40", "loop.checkpoint_every=20"), ("train.steps=30",)
    ),
    "default": EarthSize(12000, 600, 400, 96),
}
_BASELINE_TILES = 2000  # of the training split, that cheap predictors know


def get_sources(source: Path, synthetic: bool) -> None:
    """Maps into a folder: of the real Earth, or invented, which is said. Raises UserError for a
    folder that holds the other kind.
    """
    invented = (source / STAND_IN).is_file()
    if invented != synthetic and (source / "climate.png").is_file():
        kind = "an invented world" if invented else "the real Earth"
        raise UserError(f"{source} holds maps of {kind}: name another folder, or delete it")
    if synthetic:
        print(f"{source}: an INVENTED world stands in for the Earth", flush=True)
        make_world(source)
        return
    for reason in fetch(source):
        print(f"left out, with the modalities that it has: {reason}", file=sys.stderr)


def make_tiles(
    out: Path, size: str = "default", source: Path | None = None, synthetic: bool = False
) -> Project:
    """A project's YAML files and raw shards."""
    project, chosen = Project(out), SIZES[size]
    kind = "an invented world" if synthetic else "the Earth"
    project.belongs_to(f"{kind}, size {size}")
    source = source or out / "source"
    maps = out / "maps.yaml"
    project.stage(
        "fetch",
        lambda: get_sources(source, synthetic),
        lambda: (source / "climate.png").is_file() and maps.is_file(),
    )
    if not maps.is_file():
        lacking = write_maps(source, maps, chosen.amount(synthetic))
        write_modalities(project.modalities, lacking)
        if not lacking:  # else the masks would name what is not there: a plain config is written
            project.write_configs(configs_folder(), "earth")
    # what has changed in the YAML files, and whether anything has, the import finds out itself
    project.stage("tiles", lambda: run_all([_importing(project, maps)]), lambda: False)
    return project


def run_earth(
    out: Path, size: str = "default", source: Path | None = None, synthetic: bool = False
) -> Project:
    """All of it: tiles, tokenizers, tokens, a model, figures and a page."""
    project, chosen = make_tiles(out, size, source, synthetic), SIZES[size]
    making = Making(
        tokenizer_overrides=lambda steps: chosen.tokenizer_overrides,
        overrides=chosen.overrides,
        report=lambda: examine(project, chosen),
    )
    run_project(out, making=making)
    print(summary(read_figures(json.loads(project.metrics.read_text()), ALL_GOALS)))
    return project


def _importing(project: Project, maps: Path) -> list[str]:
    return command_line("import", maps, "--config", project.modalities, "--out", project.raw)


def examine(project: Project, size: EarthSize, seed: int = 0) -> None:
    """Figures on held-out tiles and the page about them; the model is assembled."""
    pipe = assemble(project)
    names = [m.name for m in pipe.modalities if m.name in EXAMINED]
    train = read_tiles(project, pipe.modalities, "train", names, _BASELINE_TILES)
    held_out = read_tiles(project, pipe.modalities, "val", names, size.examined)
    examination = Examination(pipe, train, held_out, seed)
    metrics = examination.run()
    matrix = every_cell(project, pipe, size.every, seed)
    metrics |= summary_of_cells(matrix)
    if {"caption", "land_cover", "height"} <= set(names):
        some = read_tiles(project, pipe.modalities, "val", names, size.every)
        try:
            metrics |= drawn_figures(Pictures(pipe, some))
        except UserError as error:  # the network that they are judged by is an extra
            print(f"drawn pictures are not judged: {error}", file=sys.stderr)
    write_json_atomic(project.metrics, metrics)
    write_page(project, examination, metrics, matrix)
    assemble(project)  # its card tells the figures
