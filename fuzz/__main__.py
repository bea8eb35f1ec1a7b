"""``python -m fuzz [TARGET ...] --cases 100000 --seconds 600 --seed 0``: what no reader may do.

Each target runs in a child process of its own and gets its share of the cases. Ends with status 1
where there is a finding, and prints every finding with the shortest case that shows it.
``--list`` names the targets; ``--counts FILE`` adds the figures to a table (``fuzz.counts``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fuzz import ROOT, counts
from fuzz.targets import TARGETS

# seconds for each second of CPU, and beyond, after which a child waits for what never comes
_BUSY, _GRACE = 20, 600.0
_SHOWN = 300  # characters of a case


def run_target(name: str, cases: int, seconds: float, seed: int) -> dict[str, Any]:
    """The result of one target in a child process, that of a child that died too."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder, "last")
        command = [sys.executable, "-W", "ignore", "-m", "fuzz.bounded", name, "--last", str(last)]
        numbers = ["--cases", str(cases), "--seconds", str(seconds), "--seed", str(seed)]
        environment["TMPDIR"] = folder
        try:
            done = subprocess.run(
                [*command, *numbers],
                capture_output=True,
                text=True,
                env=environment,
                timeout=_BUSY * seconds + _GRACE,
            )
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                return json.loads(lines[-1])
            what, trace = f"ends with status {done.returncode}", done.stderr[-3000:]
        except subprocess.TimeoutExpired:
            what, trace = "waits for ever", ""
        case = last.read_text(errors="replace").strip() if last.is_file() else ""
    finding = {"what": what, "case": case, "trace": trace, "count": 1}
    return {"target": name, "cases": 0, "refused": 0, "seconds": 0, "slowest": 0} | {
        "findings": {what: finding}
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the targets that are named, or all."""
    options = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    options.add_argument("targets", nargs="*", metavar="TARGET")
    options.add_argument("--cases", type=int, default=1000, help="of all targets together")
    options.add_argument("--seconds", type=float, default=60.0, help="of CPU, each target at most")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--counts", type=Path, help="table that the figures are added to")
    options.add_argument("--list", action="store_true", help="name the targets")
    told = options.parse_args(arguments)
    if told.list:
        print("\n".join(target.name for target in TARGETS))
        return 0
    known = {target.name: target for target in TARGETS}
    unknown = [name for name in told.targets if name not in known]
    if unknown:
        options.error(f"no target {unknown[0]!r}; targets are {', '.join(known)}")
    chosen = [known[name] for name in told.targets or known]
    shares = sum(target.share for target in chosen)
    results = []
    for target in chosen:
        cases = max(1, round(told.cases * target.share / shares))
        results.append(run_target(target.name, cases, told.seconds, told.seed))
        print(_line(results[-1]), flush=True)
        if told.counts:
            counts.add(told.counts, results[-1], told.seed)
    total = sum(result["cases"] for result in results)
    num = sum(len(result["findings"]) for result in results)
    print(f"{total:,} cases over {len(results)} targets, {num} findings")
    return 1 if num else 0


def _line(result: dict[str, Any]) -> str:
    head = (
        f"{result['target']:20} {result['cases']:7,} cases, {result['refused']:7,} refused,"
        f" {result['seconds']:6.1f} s, slowest {result['slowest']:.2f} s"
    )
    found = [
        f"    {f['count']:5} x {f['what']}\n        {f['case'][:_SHOWN]}\n"
        + "\n".join(f"        | {line}" for line in f["trace"].strip().splitlines()[-3:])
        for f in result["findings"].values()
    ]
    return "\n".join([head, *found])


if __name__ == "__main__":
    sys.exit(main())
