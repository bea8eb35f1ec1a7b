"""What earlier runs of a step left behind, removed by the next: files under temporary names of
processes that were killed, and shards that the step wrote of a source that has fewer now.

Only what a step's own manifests name is taken for its shards; other files in the folder stay.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

from fourm_data_prep.shard_steps import MANIFESTS, Job, ShardStep

_TEMPORARY = re.compile(r"(.+)\.tmp(\d+)")


def remove_temporaries(step: ShardStep, jobs: Sequence[Job], whole: bool) -> int:
    """Remove the temporary files of processes that are gone; returns their number.

    Args:
        jobs: those of this run.
        whole: they are all jobs. Otherwise tasks on other machines may write now, and only files
            of these jobs are touched.
    """
    mine = {name for job in jobs for name in (job.name, f"{job.number:05d}")}
    num = 0
    for path in step.out.rglob("*.tmp*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and (whole or match[1] in mine) and not _lives(int(match[2])):
            path.unlink(missing_ok=True)
            num += 1
    return num


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return process != os.getpid()


def remove_orphans(step: ShardStep, jobs: Sequence[Job]) -> int:
    """Remove shards that an earlier run wrote for jobs that are no more, and their manifests;
    returns the number of shards.
    """
    folder = step.out / MANIFESTS / step.name
    names = {job.name for job in jobs}
    outputs: dict[bool, set[str]] = {True: set(), False: set()}
    orphans = []
    for path in folder.glob("*.json"):
        try:
            written = json.loads(path.read_text())["outputs"]
        except (ValueError, KeyError):  # cut short by a crash: its job is done again, or unknown
            continue
        outputs[path.stem in names].update(written)
        if path.stem not in names:
            orphans.append(path)
    gone = [step.out / name for name in outputs[False] - outputs[True]]
    found = [path for path in gone if path.is_file()]
    for path in (*found, *orphans):
        path.unlink()
    return len(found)
