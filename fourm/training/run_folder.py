"""The folder of a run: one process at a time trains in it, and its log never disagrees with its
checkpoints.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from fourm.training.ranks import Ranks

_log = logging.getLogger(__name__)
_ASK_AGAIN = 0.2  # seconds
LOG_FILE = "log.jsonl"


def hold_folder(folder: Path, ranks: Ranks) -> IO[str] | None:
    """Lock an output folder as long as the returned file is open (the first rank's; all must call);
    waits, and says so, while another process holds it.

    Ranks tell each other now and then, so that none sits in a barrier while the first one waits.
    """
    lock = open(folder / ".lock", "a+") if ranks.lead else None
    told = False
    while not ranks.tell(lock is not None and _is_locked(lock))[0]:
        # most often a run whose parent was killed: when it ends, this one goes on from its last
        # checkpoint
        if lock is not None and not told:
            lock.seek(0)
            _log.warning(
                "another process (%s) is training in %s: waiting for it to end",
                lock.read().strip(),
                folder,
            )
            told = True
        time.sleep(_ASK_AGAIN)
    if lock is not None:
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}")
        lock.flush()
    return lock


def _is_locked(lock: IO[str]) -> bool:
    """True if the lock is ours now."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def append_log(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Add lines to a log and close it, so that a full disk is one error, here."""
    with open(path, "a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)


def cut_log(path: Path, step: int) -> None:
    """Drop log lines after ``step`` (they will be written again) and a line that a crash cut
    short.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= step and not ("eval" in record and record["step"] == step):
            kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)
