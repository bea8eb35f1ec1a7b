"""The errors that are no faults of this software, and how a command ends on each
(``fourm.cli.ending``).

A ``UserError`` is what a user can mend: a wrong path, a misspelt key, a damaged file. Every other
exception keeps its traceback, a ``ValueError`` out of numpy or torch included.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

_MOST_TOLD = 3000  # letters of a sentence


class UserError(ValueError):
    """Names the thing that is wrong and how to mend it. A ``ValueError``, so that libraries' users
    who catch that still do. A sentence that quotes a value without end is cut.
    """

    def __init__(self, sentence: object) -> None:
        text = str(sentence)
        super().__init__(text if len(text) <= _MOST_TOLD else f"{text[:_MOST_TOLD]} ...")


class Interrupted(Exception):
    """SIGTERM or Ctrl-C in a training: the state has been saved."""


class ProcessesLost(Exception):
    """Other processes of a training (ranks, loader workers) are gone: this one cannot go on."""


class StageFailed(Exception):
    """A command that a project ran ended badly; the message is that command's own last line."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


_SHORT = reprlib.Repr()
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 80


_MOST_LETTERS = 100  # of a name that is compared with known ones


def shown(value: Any) -> str:
    """A wrong value in a sentence: its ``repr``, cut where that is long."""
    return _SHORT.repr(value)


def listed(names: Iterable[str]) -> str:
    """Names that a file has, in a sentence: on one line, whatever is in them."""
    return ", ".join(" ".join(name.split()) for name in names) or "none"


def nearest(name: str, known: Iterable[str], always: bool = False) -> str:
    """The end of a sentence about an unknown name: what could be meant, or nothing where nothing
    known is like it (``always``: the most alike all the same).
    """
    given, cutoff = name[:_MOST_LETTERS], 0.0 if always else 0.6
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
