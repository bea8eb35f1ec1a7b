"""The one kind of error that a user can mend: a wrong path, a misspelt key, a damaged file.

Commands turn a ``UserError`` into one line and exit status 2. Every other exception is a fault of
this software and keeps its traceback, a ``UserError`` out of numpy or torch included.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Names the thing that is wrong and how to mend it. A ``UserError``, so that libraries' users
    who catch that still do."""


def nearest(name: str, known: Iterable[str], always: bool = False) -> str:
    """The end of a sentence about an unknown name: what could be meant, or nothing where nothing
    known is like it (``always``: the most alike all the same).
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0 if always else 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
