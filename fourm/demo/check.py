"""Does a demo run reach its goals? Exits 0 only if every figure named does.

python -m fourm.demo.check runs/demo/metrics.json [task ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fourm.demo.examine import goals_of


def main(arguments: list[str]) -> int:
    """Print each goal of a ``metrics.json``; returns 1 if one is missed, else 0."""
    metrics = json.loads(Path(arguments[0]).read_text())
    missed = 0
    for (task, metric), (sign, goal) in goals_of(metrics).items():
        if arguments[1:] and task not in arguments[1:]:
            continue
        value = metrics[task][metric]["value"]
        met = value >= goal if sign == ">=" else value <= goal
        missed += not met
        print(f"{'ok    ' if met else 'MISSED'} {task} {metric} {value:.3f} {sign} {goal:.3f}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
