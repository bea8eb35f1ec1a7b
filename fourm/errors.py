"""The errors that are no faults of this software, and how a command ends on each
(``fourm.cli.ending``).

A ``UserError`` is what a user can mend: a wrong path, a misspelt key, a damaged file. Every other
exception keeps its traceback, a ``ValueError`` out of numpy or torch included.
"""

from __future__ import annotations


class UserError(ValueError):
    """Names the thing that is wrong and how to mend it. A ``ValueError``, so that libraries' users
    who catch that still do."""


class Interrupted(Exception):
    """SIGTERM or Ctrl-C in a training: the state has been saved."""


class StageFailed(Exception):
    """A command that a project ran ended badly; the message is that command's own last line."""

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status
