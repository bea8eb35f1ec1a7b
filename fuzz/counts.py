"""``counts.json``: how much each target has met in all runs that were counted.

A run with ``--counts FILE`` adds its figures to what the file holds, so that passes of different
seeds, and of targets that are run alone, make one table. ``docs/reliability.md`` cites the one that
lies beside this file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Counts:
    """What one target came to over its runs."""

    cases: int = 0
    refused: int = 0  # of them those that ended in a sentence
    seconds: float = 0.0  # by the clock
    findings: list[str] = field(default_factory=list)  # each kind once; all have a test
    seeds: list[int] = field(default_factory=list)

    def add(self, result: dict[str, Any], seed: int) -> None:
        """Count a run, as ``fuzz.bounded.Result`` tells of it."""
        self.cases += result["cases"]
        self.refused += result["refused"]
        self.seconds = round(self.seconds + result["seconds"], 1)
        self.findings = sorted({*self.findings, *result["findings"]})
        self.seeds = sorted({*self.seeds, seed})


def read(path: Path) -> dict[str, Counts]:
    """The table in a file; an empty one where there is none."""
    if not path.is_file():
        return {}
    return {name: Counts(**entry) for name, entry in json.loads(path.read_text()).items()}


def add(path: Path, result: dict[str, Any], seed: int) -> None:
    """Add the run of a target to the table in a file."""
    table = read(path)
    table.setdefault(result["target"], Counts()).add(result, seed)
    path.write_text(json.dumps({k: asdict(v) for k, v in sorted(table.items())}, indent=1) + "\n")
