"""Where and how wide a step of data preparation runs, and the command-line options for it.

Imports nothing heavy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

import click

from fourm.errors import UserError

TRIES = 3  # of a shard whose worker died


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how wide a step runs."""

    engine: Literal["local", "ray"] = "local"
    workers: int = 0  # processes or tasks at a time; 0 = one for each core
    address: str = ""  # ray: of a running cluster; empty = start one here
    num_gpus: float = 0.0  # ray: of each task
    shard_range: tuple[int, int] | None = None  # run jobs first..last - 1 of the list

    def __post_init__(self) -> None:
        if self.shard_range is not None and not 0 <= self.shard_range[0] <= self.shard_range[1]:
            raise UserError(
                f"shard range {self.shard_range[0]}:{self.shard_range[1]} is not first:last with"
                " first <= last"
            )

    def num_at_once(self, num_jobs: int) -> int:
        """Processes or tasks at a time for so many jobs."""
        return max(1, min(self.workers or os.cpu_count() or 1, num_jobs))


def parse_range(text: str) -> tuple[int, int]:
    """``3:10`` -> (3, 10). Raises UserError for anything else."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit():
        raise UserError(f"--shard-range {text!r} is not of the form first:last, e.g. 0:100")
    return int(first), int(last)


def takes_engine(action: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all steps share; calls ``action(engine: EngineConfig)``."""

    @click.option(
        "--engine", type=click.Choice(["local", "ray"]), default="local", help="Where it runs."
    )
    @click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=0,
        help="Shards at a time; 0 = one for each core.",
    )
    @click.option("--address", default="", help="ray: address of a running cluster.")
    @click.option("--gpus", type=click.FloatRange(min=0), default=0.0, help="ray: of each task.")
    @click.option(
        "--shard-range",
        metavar="FIRST:LAST",
        help="Only these of the shards: one task of a job array.",
    )
    @wraps(action)
    def run(
        engine: Literal["local", "ray"],
        workers: int,
        address: str,
        gpus: float,
        shard_range: str | None,
        **options: Any,
    ) -> Any:
        config = EngineConfig(
            engine=engine,
            workers=workers,
            address=address,
            num_gpus=gpus,
            shard_range=parse_range(shard_range) if shard_range else None,
        )
        return action(engine=config, **options)

    return run
