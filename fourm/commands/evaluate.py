"""``fourm evaluate MODEL DATA``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import PATH, SEED, verb


@verb(resumes=True)
@click.argument("model")
@click.argument("data", type=PATH)
@click.option("--samples", type=click.IntRange(min=2), default=256, help="Most held-out samples.")
@click.option(
    "--num-generations",
    type=click.IntRange(min=0),
    default=1,
    help="Of each sample; from 3 on coverage is told, 8 is a good number; 0: one answer alone.",
)
@click.option(
    "--conditions",
    default="",
    help="Rows, e.g. 'rgb;depth+caption;all'; left out: nothing;each;all.",
)
@click.option("--targets", default="", help="Columns, e.g. 'rgb;depth'; left out: all.")
@click.option("--split", default="val", help="Split of DATA.")
@click.option("--seed", type=SEED, default=0, help="Of the first sample's first generation.")
@click.option("--out", type=PATH, default="runs/matrix", help="Folder for cells and the page.")
def command(
    model: str,
    data: Path,
    samples: int,
    num_generations: int,
    conditions: str,
    targets: str,
    split: str,
    seed: int,
    out: Path,
) -> None:
    """Judge a model from any modality to any other.

    MODEL is a model folder, a hub id or a project; DATA a project, or a folder that holds raw/ and
    tokens/ or raw shards. Writes matrix.json and matrix.html. Several ranks (torchrun) share the
    cells.
    """
    from fourm.evaluation.matrix.run import MatrixSettings, evaluate_matrix

    settings = MatrixSettings(
        samples=samples,
        num_generations=num_generations,
        conditions=conditions,
        targets=targets,
        split=split,
        seed=seed,
    )
    matrix = evaluate_matrix(model, data, out, settings)
    if matrix is None:
        print(f"this rank's cells are made; the last rank writes {out / 'matrix.html'}")
        return
    for entry in matrix.not_better:
        names = ", ".join(dict.fromkeys([*entry["figures"], *entry["answer"]]))
        print(f"not better than its baselines: {entry['condition']} -> {entry['target']} ({names})")
    print(f"matrix: {out / 'matrix.html'}, {out / 'matrix.json'}")
