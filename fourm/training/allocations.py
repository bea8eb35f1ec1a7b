"""Memory that a training step frees is kept for the next one.

A step allocates and frees the same few hundred megabytes each time. glibc hands back to the system
whatever it freed above a threshold, and every page of it is then zeroed and mapped again on the
next touch: a fifth of a step on a CPU (``docs/log.md``, 2026-11-24). Two of its settings stop that.
Device memory has an arena of torch's own, and other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes

# numbers of <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; says whether its C library could be told so."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, _NEVER))
