"""``fourm doctor [CONFIG [KEY=VALUE]...]``"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from fourm.cli.verb import COUNT, verb


@verb()
@click.argument("words", nargs=-1, metavar="[CONFIG [KEY=VALUE]...]")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1.0),
    default=20.0,
    help="How long steps of CONFIG are tried.",
)
@click.option("--ranks", type=COUNT, default=1, help="GPUs that the run is planned for.")
@click.option(
    "--gpu", default="", help="Memory, and name, of each: 80GB, 'H100 80GB' (left out: this one)."
)
@click.option(
    "--mfu",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=0.4,
    help="Share of a named GPU's peak that hours are planned with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    words: tuple[str, ...], seconds: float, ranks: int, gpu: str, mfu: float, as_json: bool
) -> None:
    """Say what this machine can do and what a run costs.

    With CONFIG, a YAML file as in configs/pretrain, its model is counted and a few of its steps are
    tried, on random tokens if its data is not there. With --ranks or --gpu nothing is tried: memory
    and hours are arithmetic, and what to change is said where a rank's memory is too small. Nothing
    is written.
    """
    if not words and (ranks > 1 or gpu):
        raise click.UsageError("--ranks and --gpu plan a CONFIG: name one")
    from fourm.config import load
    from fourm.doctor.machine import examine
    from fourm.training.pretrain import PretrainConfig

    # a mistake in the config is told before anything is measured
    config = load(PretrainConfig, Path(words[0]), list(words[1:])) if words else None
    checks = examine() if ranks == 1 and not gpu else []
    if not as_json and checks:
        print("\n".join(map(str, checks)) + ("\n" if words else ""))
    found = None
    if config is not None:
        from fourm.doctor.estimate import Cluster, estimate

        found = estimate(config, seconds, Cluster(ranks, gpu, mfu))
    if as_json:
        machine: dict[str, object] = {"machine": [dataclasses.asdict(check) for check in checks]}
        print(json.dumps(machine | ({"estimate": found.to_mapping()} if found else {})))
    elif found is not None:
        print("\n".join(found.lines()))
