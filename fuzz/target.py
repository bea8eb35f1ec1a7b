"""What is fuzzed: a reader, inputs for it, and what may come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

CORPUS = Path(__file__).parent / "corpus"
MOST_WORDS = 4000  # characters of an error's sentence, which may list all known names


@dataclass(frozen=True, kw_only=True)
class Target:
    """A reader under test.

    ``run`` gets a case and a folder of its own, empty or with what earlier cases left there. It may
    return anything or raise a ``UserError``; what else it raises is a finding.
    """

    name: str
    inputs: Callable[[], SearchStrategy[Any]]  # made in the child, so that listing stays quick
    run: Callable[[Any, Path], object]
    share: float = 1.0  # of all cases, beside the other targets
    seconds: float = 5.0  # of CPU that a case may take
    watched: bool = True  # what it does is audited; numba unpickles and writes its own cache
    takes_bytes: bool = False  # cases are plain bytes: these have a corpus and can be guided
    seeds: Callable[[], list[bytes]] = list  # valid ones among them

    @property
    def corpus(self) -> list[bytes]:
        """Inputs that were found before."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))]
