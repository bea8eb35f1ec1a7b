"""The one kind of error that a user can mend: a wrong path, a misspelt key, a damaged file.

Commands turn a ``UserError`` into one line and exit status 2. Every other exception is a fault of
this software and keeps its traceback, a ``UserError`` out of numpy or torch included.
"""

from __future__ import annotations


class UserError(ValueError):
    """Names the thing that is wrong and how to mend it. A ``UserError``, so that libraries' users
    who catch that still do."""
