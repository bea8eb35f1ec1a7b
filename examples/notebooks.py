"""The examples as notebooks: written, and run.

    python examples/notebooks.py runs/notebooks [NAME...] [--small] [--only-write]

An example is a script in jupytext's percent format, and its only source; where it reads
the command line, a notebook has the arguments. It runs in a kernel of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jupytext
import nbclient
from nbformat import NotebookNode

HERE = Path(__file__).parent
_ASKED = "parse_args()"  # in the cell that reads the command line


def examples() -> list[Path]:
    """Every script in the percent format."""
    return [path for path in sorted(HERE.glob("*.py")) if "\n# %% " in path.read_text()]


def notebook(script: Path, out: Path, small: bool) -> NotebookNode:
    """A script as a notebook that writes into ``out``."""
    found = jupytext.read(script, fmt="py:percent")
    asked = repr([str(out), *["--small"] * small])
    for cell in found.cells:
        cell.source = cell.source.replace(_ASKED, f"parse_args({asked})")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", help="examples; left out: all")
    parser.add_argument("--small", action="store_true", help="few samples, few steps")
    parser.add_argument("--only-write", action="store_true", help="do not run them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for script in examples():
        if options.names and script.stem not in options.names:
            continue
        made = notebook(script, options.out.resolve() / script.stem, options.small)
        if not options.only_write:
            nbclient.NotebookClient(made, timeout=3600, kernel_name="python3").execute()
        path = options.out / f"{script.stem}.ipynb"
        jupytext.write(made, path)
        print(path)


if __name__ == "__main__":
    main()
