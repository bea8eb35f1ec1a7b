"""Functions that numba compiles to machine code, kept on disk from run to run.

For loops over single samples and tokens, where numpy would make hundreds of small calls. Compiled
functions hold no Python object, so they run without the interpreter's lock and survive a fork.

numba's own cache notices an edit of the file that a function is in, but not one of a file whose
functions it calls. So the cache of this package is a folder named by the text of all files that
hold compiled functions: an edit, or another release, never meets machine code of before. Where
``NUMBA_CACHE_DIR`` is set, the folder is made there; it is not beside the code, which may be
read-only. Where it cannot be made, numba looks for another place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable)
_HOUSE = Path(__file__).parents[1]
# every module with compiled functions, and those whose constants they use
SOURCES = (
    "batches/budgets.py",
    "batches/mask_counts.py",
    "batches/mask_rules.py",
    "batches/mask_samples.py",
    "batches/read_rows.py",
    "batches/spans.py",
    "data/permute.py",
    "modalities.py",
    "numbers/compiled_rng.py",
    "numbers/rng.py",
)


def compiled(function: _Function) -> _Function:
    """The function as machine code, made when it is first called with arguments of some types."""
    before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
    numba.config.CACHE_DIR = str(_cache_folder())  # type: ignore[attr-defined]
    try:
        # numbers divided by zero are infinite, as in numpy
        return cast(_Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        numba.config.CACHE_DIR = before  # type: ignore[attr-defined]


def _cache_folder() -> Path:
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    text = b"".join((_HOUSE / name).read_bytes() for name in SOURCES)
    return Path(chosen or Path(home, "fourm", "compiled"), hashlib.sha256(text).hexdigest()[:16])
