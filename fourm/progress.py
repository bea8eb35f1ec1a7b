"""Progress bars: alive on a terminal, a line every half minute in a log file."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_ON_A_TERMINAL, _SECONDS_IN_FILES = 0.5, 30.0


def progress_bar(**options: Any) -> tqdm:
    """A bar of ``tqdm`` on standard error, of as many lines as a reader of its output wants."""
    often = (
        {"mininterval": 0.5}
        if sys.stderr.isatty()
        else {"mininterval": _SECONDS_IN_FILES, "miniters": 1}
    )
    return tqdm(**often, **options)
