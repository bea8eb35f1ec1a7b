"""The folder of a run: one process at a time trains in it, and its log never disagrees with its
checkpoints.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

_log = logging.getLogger(__name__)
LOG_FILE = "log.jsonl"


def hold_folder(folder: Path) -> IO[str]:
    """Lock an output folder as long as the returned file is open; waits, and says so, while another
    process holds it.
    """
    lock = open(folder / ".lock", "a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # most often a run whose parent was killed: when it ends, this one goes on from its last
    # checkpoint
    except OSError:
        lock.seek(0)
        _log.warning(
            "another process (%s) is training in %s: waiting for it to end",
            lock.read().strip(),
            folder,
        )
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.truncate(0)
    lock.write(f"pid {os.getpid()}")
    lock.flush()
    return lock


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
