"""What a process tells while it works: progress bars, alive on a terminal, a line every half minute
in a log file; and of the lines of a training's ranks those that no other one says.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from tqdm import tqdm

_SECONDS_ON_A_TERMINAL, _SECONDS_IN_FILES = 0.5, 30.0

OWN = {"of_its_own": True}  # ``extra`` of a line about what this rank alone has met


def is_news(record: logging.LogRecord) -> bool:
    """False for a line that the first rank says too."""
    first = os.environ.get("RANK", "0") == "0"
    return first or record.levelno >= logging.ERROR or hasattr(record, *OWN)


def progress_bar(**options: Any) -> tqdm:
    """A bar of ``tqdm`` on standard error, of as many lines as a reader of its output wants."""
    often = (
        {"mininterval": 0.5}
        if sys.stderr.isatty()
        else {"mininterval": _SECONDS_IN_FILES, "miniters": 1}
    )
    return tqdm(**often, **options)
