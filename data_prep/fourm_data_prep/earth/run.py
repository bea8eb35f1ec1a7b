"""``fourm earth``: the stages from nothing to a project with raw shards.

Each is skipped if it is done; more stages (tokenizers, pretraining, a report) are more
``project.stage`` calls after these.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from fourm.errors import UserError
from fourm.project import Project, command_line, run_all
from fourm_data_prep.earth.fetching import fetch
from fourm_data_prep.earth.maps import Amount, write_maps, write_modalities
from fourm_data_prep.earth.stand_in import STAND_IN, make_world


@dataclass(frozen=True)
class EarthSize:
    """How much of everything."""

    train: int
    val: int

    def amount(self, synthetic: bool) -> Amount:
        """Tiles of the Earth, or of a stand-in, which has only 4 pixels for each degree."""
        real = Amount(self.train, self.val)
        return replace(real, degrees=8.0, block=20.0) if synthetic else real


SIZES = {"smoke": EarthSize(512, 64), "default": EarthSize(12000, 600)}


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
    importing = command_line("import", maps, "--config", project.modalities, "--out", project.raw)
    # what has changed in the YAML files, and whether anything has, the import finds out itself
    project.stage("tiles", lambda: run_all([importing]), lambda: False)
    return project
