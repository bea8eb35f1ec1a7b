"""``fourm evaluate``: all cells of the matrix, a file each, then ``matrix.json`` and
``matrix.html``.

A cell that is there is not made again, so what was cut short goes on. Ranks (of torchrun or of
accelerate: whatever sets RANK and WORLD_SIZE) share the folder and nothing else: each makes every
n-th cell, and the one that finds all of them made writes the page. No rank waits for another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fourm.config import at_least, check_fields, from_mapping, to_mapping
from fourm.data.shards import write_json_atomic
from fourm.errors import UserError
from fourm.evaluation.efficientnet import efficientnet_network
from fourm.evaluation.held_out import Samples, Shards, present, read_samples
from fourm.evaluation.matrix.cells import CellMaker, RivalPredictors
from fourm.evaluation.matrix.conditions import Condition, read_conditions, read_targets
from fourm.evaluation.matrix.figures import Cell, Matrix
from fourm.evaluation.matrix.judges import judge_of
from fourm.evaluation.matrix.page import write_page
from fourm.evaluation.opened import device, model_digest, model_folder
from fourm.files.formats import FORMAT
from fourm.modalities import Modality, ModalitySet
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.progress import progress_bar


@dataclass(frozen=True, kw_only=True)
class MatrixSettings:
    """How a model is judged."""

    samples: int = 256
    num_generations: int = 1
    seed: int = 0
    split: str = "val"
    conditions: str = ""
    targets: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        at_least(self, 2, "samples")
        at_least(self, 0, "seed", "num_generations")


@dataclass(frozen=True)
class _Place:
    """A cell that is to be made, and its file."""

    condition: Condition
    target: Modality
    path: Path

    def read(self) -> Cell | None:
        """The cell, if it is made."""
        if not self.path.is_file():
            return None
        return from_mapping(Cell, json.loads(self.path.read_text()), str(self.path))


def evaluate_matrix(
    model: str | Path,
    data: Path,
    out: Path,
    settings: MatrixSettings,
    rivals: RivalPredictors | None = None,
) -> Matrix | None:
    """Make the cells that are this rank's and are not there; the whole matrix once all are there,
    None while other ranks are at theirs. ``rivals`` are further lower bounds. Raises UserError.
    """
    rank, num_ranks = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1)))
    folder = model_folder(model)
    pipe = AnyToAnyPipeline.from_pretrained(folder, device=device())
    conditions, targets, samples = _chosen(pipe.modalities, data, settings)
    _same_settings(out, folder, samples, settings, rivals)
    places = _places(conditions, targets, out)
    if not places:
        raise UserError("no cell is left: each condition holds the raw form of each target")
    if rank == 0 and samples.report.entries:
        first = samples.report.entries[0]
        print(f"left out what is damaged, first {first.shard}: {first.key}: {first.reason}")
    with_pictures = any(judge_of(m.raw).are_pictures for m in targets)
    with_pictures = with_pictures and _have_network(rank == 0)
    maker = CellMaker(pipe, samples, settings.num_generations, settings.seed, with_pictures, rivals)
    own = places[rank::num_ranks]
    with progress_bar(total=len(own), desc="evaluate", unit="cell", disable=rank > 0) as bar:
        for place in own:
            bar.set_postfix_str(f"{place.condition.name} -> {place.target.name}", refresh=False)
            if not place.path.is_file():
                write_json_atomic(place.path, to_mapping(maker.make(place.condition, place.target)))
            bar.update()
    cells = [place.read() for place in places]
    made = tuple(cell for cell in cells if cell is not None)
    if len(made) < len(places):
        return None
    matrix = Matrix(
        model=str(model),
        data=str(data),
        split=settings.split,
        seed=settings.seed,
        num_samples=len(samples),
        damaged=tuple(f"{e.shard}: {e.key}: {e.reason}" for e in samples.report.entries),
        num_generations=settings.num_generations,
        conditions=tuple(condition.name for condition in conditions),
        targets=tuple(m.name for m in targets),
        cells=made,
    )
    described = {"format": FORMAT, **to_mapping(matrix), "not_better": matrix.not_better}
    write_json_atomic(out / "matrix.json", described)
    write_page(matrix, out / "matrix.html")
    return matrix


def _chosen(
    modalities: ModalitySet, data: Path, settings: MatrixSettings
) -> tuple[list[Condition], list[Modality], Samples]:
    """Rows, columns, and the samples that have all of them."""
    columns = present(Shards.find(data, settings.split), modalities)
    if not columns:
        known = ", ".join(m.name for m in modalities)
        raise UserError(f"{data}/{settings.split} has none of the model's modalities ({known})")
    conditions = read_conditions(settings.conditions, modalities, list(columns))
    names = read_targets(settings.targets, modalities, list(columns))
    if not names:
        outputs = ", ".join(m.name for m in modalities.outputs)
        raise UserError(f"{data}/{settings.split} has none of the model's outputs ({outputs})")
    targets = [modalities[name] for name in names]
    given = [condition.given(target) for condition in conditions for target in targets]
    used = {*names, *(name for names in given for name in names or ())}
    samples = read_samples({k: v for k, v in columns.items() if k in used}, settings.samples)
    if len(samples) < 2:
        raise UserError(
            f"{data}/{settings.split}: a single held-out sample has no others to be compared with"
        )
    return conditions, targets, samples


def _same_settings(
    out: Path,
    folder: Path,
    samples: Samples,
    settings: MatrixSettings,
    rivals: RivalPredictors | None,
) -> None:
    """Note what cells depend on. Raises UserError if those there depend on other things."""
    now = {
        "format": FORMAT,
        "model": model_digest(folder, out),
        "samples": hashlib.sha256("\n".join(samples.keys).encode()).hexdigest(),
        "num_generations": settings.num_generations,
        "seed": settings.seed,
        "rivals": rivals.name if rivals else "",
    }
    note = out / "settings.json"
    before = json.loads(note.read_text()) if note.is_file() else now
    before = {"rivals": "", **before}  # releases up to 0.7 had none
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise UserError(
            f"{out} holds cells of other settings ({', '.join(changed)}): give another --out, or"
            " delete it first"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json_atomic(note, now)


def _places(
    conditions: Sequence[Condition], targets: Sequence[Modality], out: Path
) -> list[_Place]:
    """Cells by target, so that those of a slow one are dealt to all ranks."""
    return [
        _Place(condition, target, out / "cells" / target.name / f"{condition.name}.json")
        for target in targets
        for condition in conditions
        if condition.given(target) is not None
    ]


def _have_network(tell: bool) -> bool:
    """If pictures' features can be made; the first rank tells what they need."""
    try:
        efficientnet_network()
    except UserError as error:
        if tell:
            print(f"pictures are judged without the distances of their distributions: {error}")
        return False
    return True
