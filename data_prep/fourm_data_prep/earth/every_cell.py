"""Every cell of the matrix on held-out tiles, beside what costs nothing: the coordinates alone (the
nearest training tiles), a table of colours, the commonest class or the mean, another tile's
condition. Predictors give one answer, so the model is asked for one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from fourm.evaluation.matrix.figures import Matrix
from fourm.evaluation.matrix.run import MatrixSettings, evaluate_matrix
from fourm.evaluation.opened import model_digest
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.project.project import Project
from fourm_data_prep.earth.rivals import Rivals
from fourm_data_prep.earth.tiles import Tiles, read_keyed, read_tiles

CONDITIONS = "each;land_cover+height;pixels+direction;all"
_TRAIN = 2000  # tiles that rivals know


def every_cell(project: Project, pipe: AnyToAnyPipeline, num_tiles: int, seed: int = 0) -> Matrix:
    """The matrix of one answer each; its cells lie in the project and are not made twice."""
    known = [m for m in pipe.modalities.outputs if (project.raw / "val" / m.raw_name).is_dir()]
    names = list(dict.fromkeys(["rgb", *(m.raw_name for m in known)]))
    train = read_tiles(project, pipe.modalities, "train", names, _TRAIN)

    @cache
    def held_out(keys: tuple[str, ...]) -> Tiles:
        return read_keyed(project, pipe.modalities, "val", ["rgb"], keys)

    settings = MatrixSettings(
        samples=num_tiles, num_generations=0, seed=seed, conditions=CONDITIONS
    )
    rivals = Rivals(train, lambda keys: held_out(tuple(keys)))
    # a folder for each model: a new one begins a new matrix
    out = project.root / "matrix" / model_digest(project.model, project.root / "matrix")[:12]
    matrix = evaluate_matrix(project.model, project.root, out, settings, rivals)
    assert matrix is not None, "one rank makes all cells"
    return matrix


def summary(matrix: Matrix) -> dict[str, Any]:
    """What ``metrics.json`` tells of it: the share of cells that are better, and which are not."""
    judged = [cell for cell in matrix.cells if cell.better_answer is not None]
    listed = {
        f"{cell.condition}->{cell.target}": cell.worse_answers
        for cell in judged
        if not cell.better_answer
    }
    share = {
        "value": 1 - len(listed) / max(len(judged), 1),
        "bound": 1.0,
        "n": matrix.num_samples,
        "cells": len(judged),
        "not_better": listed,
    }
    return {"every cell": {"share better": share}}
