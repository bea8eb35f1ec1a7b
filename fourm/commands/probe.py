"""``fourm probe MODEL DATA --label LABEL``"""

from __future__ import annotations

from pathlib import Path

import click

from fourm.cli.verb import COUNT, PATH, verb


@verb(resumes=True)
@click.argument("model")
@click.argument("data", type=PATH)
@click.option(
    "--label",
    "labels",
    multiple=True,
    required=True,
    help="TABLE.csv:COLUMN (its column key names samples), or a modality of words; several times.",
)
@click.option("--inputs", default="rgb", help="Modalities that are given, e.g. 'rgb,depth'.")
@click.option("--layers", default="-1", help="Encoder layers, side by side, e.g. '1,-1'.")
@click.option("--heads", default="linear,knn,attentive", help="Probes.")
@click.option("--shots", default="30,100,1000", help="Labels in all.")
@click.option("--seeds", type=COUNT, default=3, help="Draws of the labels.")
@click.option("--samples", type=COUNT, default=1000, help="Most samples that are judged.")
@click.option("--train-split", default="train", help="Split that labels are drawn from.")
@click.option("--split", default="val", help="Split that is judged.")
@click.option("--baselines/--no-baselines", default=True, help="What it is held against.")
@click.option("--out", type=PATH, default="runs/probe", help="Folder of features and figures.")
def command(
    model: str,
    data: Path,
    labels: tuple[str, ...],
    inputs: str,
    layers: str,
    heads: str,
    shots: str,
    seeds: int,
    samples: int,
    train_split: str,
    split: str,
    baselines: bool,
    out: Path,
) -> None:
    """Tell classes from a model's frozen features.

    Linear, nearest-neighbour and attentive probes of few labels, beside the same of pixels, of a
    random encoder and of EfficientNet-Lite0. MODEL is a model folder, a hub id or a project; DATA a
    project, or a folder that holds raw/ and tokens/ or raw shards. Writes probe.json.
    """
    from fourm.features.opening import whole_numbers
    from fourm.features.probe import ProbeSettings, probe

    settings = ProbeSettings(
        inputs=inputs,
        layers=layers,
        heads=tuple(name.strip() for name in heads.split(",") if name.strip()),
        shots=whole_numbers(shots, "--shots"),
        seeds=seeds,
        samples=samples,
        train_split=train_split,
        split=split,
        with_baselines=baselines,
    )
    print(probe(model, data, labels, out, settings).text())
    print(f"probes: {out / 'probe.json'}")
