"""Do two commits compute the same? Loss curves of small trainings, recorded on both and compared.

    python benchmarks/same_curve.py A B [--tolerance 0]

Exit status 1 where a curve of B differs from A's by more than the tolerance (relative; 0 = bit for
bit). The recorder is ``tests/curves.py`` of this checkout, whichever commits are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE_ROOTS = ("", "tokenizers", "data_prep")


def record(commit: str, folder: Path) -> dict[str, list[float]]:
    """Curves of one commit, in a work tree of its own."""
    tree, out = folder / "tree", folder / "curves.json"
    subprocess.run(
        ["git", "worktree", "add", "--detach", str(tree), commit],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    try:
        paths = os.pathsep.join(str(tree / root) for root in SOURCE_ROOTS)
        command = [sys.executable, str(ROOT / "tests" / "curves.py"), str(out)]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "PYTHONPATH": paths},
            cwd=folder,
            capture_output=True,
        )
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    return json.loads(out.read_text())["curves"]


def largest_difference(a: list[float], b: list[float]) -> float:
    """Relative, over all steps; infinite for curves of different lengths."""
    if len(a) != len(b):
        return float("inf")
    return max(abs(x - y) / max(abs(x), 1e-12) for x, y in zip(a, b, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", help="commit")
    parser.add_argument("b", help="commit")
    parser.add_argument("--tolerance", type=float, default=0.0, help="relative difference allowed")
    options = parser.parse_args()
    recorded = []
    for commit in (options.a, options.b):
        with tempfile.TemporaryDirectory() as folder:
            recorded.append(record(commit, Path(folder)))
    differences = {n: largest_difference(recorded[0][n], recorded[1][n]) for n in recorded[0]}
    print(json.dumps({"a": options.a, "b": options.b, "differences": differences}, indent=1))
    sys.exit(int(any(value > options.tolerance for value in differences.values())))


if __name__ == "__main__":
    main()
