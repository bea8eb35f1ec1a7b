"""``fourm features MODEL DATA``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb


@verb(resumes=True)
@click.argument("model")
@click.argument("data", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder of the features.")
@click.option("--inputs", default="rgb", help="Modalities that are given, e.g. 'rgb,caption'.")
@click.option("--layers", default="-1", help="Encoder layers, side by side, e.g. '1,-1'.")
@click.option("--pool", default="mean", help="mean, modality (a mean of each) or none (tokens).")
@click.option("--split", default="val", help="Split of DATA.")
@click.option("--samples", type=COUNT, help="Most samples; left out: all.", show_default=False)
def command(
    model: str,
    data: Path,
    out: Path,
    inputs: str,
    layers: str,
    pool: str,
    split: str,
    samples: int | None,
) -> None:
    """Write a model's features of a split.

    MODEL is a model folder, a hub id or a project; DATA a project, or a folder that holds raw/ and
    tokens/ or raw shards. Writes vectors.npy, places.npy, keys.txt, offsets.npy where samples have
    several rows, latents.json and features.json.
    """
    from fourm.features.opening import encoder_source
    from fourm.features.write import write_features

    source = encoder_source(model, inputs, out, layers, pool)
    found = write_features(source, data, split, out, samples)
    rows, dim = found.vectors.shape
    print(f"features: {len(found)} samples, {rows} rows of {dim} numbers in {out}")
