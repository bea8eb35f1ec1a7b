"""Where and how wide a step of data preparation runs, and the command-line options for it.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Literal

from fourm.errors import UserError


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


def parse_range(text: str) -> tuple[int, int]:
    """``3:10`` -> (3, 10). Raises UserError for anything else."""
    first, colon, last = text.partition(":")
    if not colon or not first.isdigit() or not last.isdigit():
        raise UserError(f"--shard-range {text!r} is not of the form first:last, e.g. 0:100")
    return int(first), int(last)


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """The options that all steps share."""
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument(
        "--workers", type=int, default=0, help="shards at a time; 0 = one for each core"
    )
    parser.add_argument("--address", default="", help="ray: address of a running cluster")
    parser.add_argument("--gpus", type=float, default=0.0, help="ray: GPUs of each task")
    parser.add_argument(
        "--shard-range",
        metavar="FIRST:LAST",
        help="only these of the shards: one task of a job array",
    )


def engine_of(options: argparse.Namespace) -> EngineConfig:
    """The engine that a command's options describe."""
    limits = parse_range(options.shard_range) if options.shard_range else None
    return EngineConfig(
        engine=options.engine,
        workers=options.workers,
        address=options.address,
        num_gpus=options.gpus,
        shard_range=limits,
    )
