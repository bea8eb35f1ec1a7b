"""The program ``fourm`` as tests start it, and the line with which it refuses."""

import tomllib
from pathlib import Path

import pytest

from fourm.cli import main

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def refused(capfd, *arguments: str) -> str:
    """The one line that ``fourm`` prints about a user's mistake."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    told = capfd.readouterr().err
    assert stopped.value.code == 2
    assert len(told.strip().splitlines()) == 1 and told.startswith("error: "), told
    return told
