"""Compare this package with outputs of the reference implementation of 4M.

    python tests/parity.py FOLDER...

Each folder (or a folder of such folders) holds ``config.json``, ``model.safetensors``,
``inputs.safetensors`` and ``outputs.safetensors``, packed with xz or not: what the reference's own
classes saved, were given and computed. One line is printed for each tensor: name, largest absolute
difference, tolerance (1e-4 of the output's scale, 3e-4 for pictures of several denoising steps; ids
exactly). Exit status 1 if any misses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from parity_models import check_fourm
from parity_tensors import Comparison
from parity_tokenizers import check_tokenizer


def check(folder: Path) -> Iterator[Comparison]:
    """All comparisons of one folder."""
    config = json.loads((folder / "config.json").read_text())
    return check_fourm(folder) if "domains_in" in config else check_tokenizer(folder)


def folders_under(path: Path) -> list[Path]:
    """``path`` and the folders below it that hold a model with outputs to compare."""
    if not path.is_dir():
        raise SystemExit(f"error: no folder {path}")
    return sorted(
        {
            f.parent
            for f in path.rglob("outputs.safetensors*")
            if (f.parent / "config.json").is_file()
        }
    )


def main(arguments: list[str]) -> int:
    if not arguments:
        print("usage: python tests/parity.py FOLDER...", file=sys.stderr)
        return 2
    missed = []
    for argument in arguments:
        found = folders_under(Path(argument))
        if not found:
            print(f"error: {argument} holds no outputs of the reference", file=sys.stderr)
            return 2
        for folder in found:
            print(f"== {folder}")
            for c in check(folder):
                print(
                    f"{'ok  ' if c.good else 'MISS'} {c.name:<60} {c.difference:.3e}  tolerance"
                    f" {c.tolerance:.3e}"
                )
                missed += [] if c.good else [f"{folder}: {c.name}"]
    for name in missed:
        print(f"missed: {name}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
