"""One step of data preparation by two engines: a difference is a finding.

Whatever a step's shards hold (samples, damage, remarks, a shard that fails once, a worker that dies
once), a pool of processes, and Ray where it is installed, must leave the files, the manifests, the
counts and the sentences that one process leaves, in which a shard is made after another.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fourm_data_prep.engine import run_step
from fourm_data_prep.engine_local import start_workers
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fourm.data.shards import Damage, shard_path, write_shard
from fourm.errors import UserError
from fuzz.target import Target

_WORKERS = 2
_Ending = Literal["done", "fails", "dies"]  # of the first try; later ones are done


@dataclass(frozen=True)
class Shard:
    """What one shard holds, and how its first try ends."""

    samples: tuple[bytes, ...]
    damaged: int
    ending: _Ending


@dataclass(frozen=True)
class Case:
    """Shards of a step, and how many of them an earlier task of a job array has made."""

    shards: tuple[Shard, ...]
    before: int


@dataclass(frozen=True)
class Copies:
    """The step: writes what it was given; first tries are noted in a folder of their own."""

    out: Path
    tried: Path
    main: int  # the process that must not be killed
    shards: tuple[Shard, ...]
    name: str = "copies"

    def described(self) -> dict[str, Any]:
        return {"shards": repr(self.shards)}

    def jobs(self) -> list[Job]:
        return [
            Job(("train", "val")[number % 2], number, fingerprint(repr(shard)))
            for number, shard in enumerate(self.shards)
        ]

    def run(self, job: Job) -> ShardResult:
        shard, mark = self.shards[job.number], self.tried / job.name
        if shard.ending != "done" and not mark.exists():
            mark.touch()
            if shard.ending == "fails":
                raise UserError(f"{job.name} fails once")
            if os.getpid() != self.main:
                os.kill(os.getpid(), signal.SIGKILL)
        path = shard_path(self.out, job.split, "text", job.number)
        write_shard(path, [(f"{i}", "txt", data) for i, data in enumerate(shard.samples)])
        damage = tuple(Damage(job.name, f"d{i}", "damaged") for i in range(shard.damaged))
        outputs = (str(path.relative_to(self.out)),)
        counts = {job.split: len(shard.samples)}
        return ShardResult(outputs, len(shard.samples), damage, counts=counts)


def _made(case: Case, out: Path, engine: EngineConfig) -> dict[str, Any]:
    """Everything that a run of an engine leaves behind and says."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "tried").mkdir(parents=True)
    step = Copies(out / "made", out / "tried", os.getpid(), case.shards)
    step.out.mkdir()
    part = EngineConfig(**(asdict(engine) | {"shard_range": (0, case.before)}))
    said = [_said(step, part), *(_said(step, engine) for _ in range(len(case.shards) + 1))]
    files: dict[str, Any] = {
        str(path.relative_to(step.out)): path.read_bytes()
        for path in sorted(step.out.rglob("*"))
        if path.is_file()
    }
    for name in files:
        if name.startswith("manifests"):
            files[name] = json.loads(files[name]) | {"seconds": 0}
    return {
        "files": files,
        "failed": {one for one in said if isinstance(one, str)},
        "end": said[-1],
    }


def _said(step: Copies, engine: EngineConfig) -> Any:
    """The sums of a run, or the sentence that it ended with."""
    try:
        progress = run_step(step, engine, max_damage=1.0)
    except UserError as error:
        return str(error)
    return progress.num_done, dict(progress.counts), progress.report.entries


def engines_agree(case: Case, folder: Path) -> None:
    """One process, a pool, and Ray."""
    expected = _made(case, folder / "one", EngineConfig(workers=1))
    failed = expected.pop("failed")
    assert expected["end"][0] == len(case.shards)
    for name in ("local", *_running()):
        made = _made(case, folder / name, EngineConfig(engine=name, workers=_WORKERS))
        # of several shards that fail side by side one is told
        assert made.pop("failed") <= failed, name
        assert made == expected, name


def _running() -> tuple[Literal["ray"], ...]:
    """Ray, where it was started."""
    ray = sys.modules.get("ray")
    return ("ray",) if ray is not None and ray.is_initialized() else ()


def start_ray() -> None:
    """Start Ray where it is installed and nothing has bounded this process's memory yet: it maps
    more than that.
    """
    is_free = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    if is_free and importlib.util.find_spec("ray"):
        import ray  # pyright: ignore[reportMissingImports]

        ray.init(num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False)


def _cases() -> SearchStrategy[Case]:
    """Strategy of cases; engines are started before memory is bounded."""
    start_ray()
    start_workers(EngineConfig(workers=_WORKERS), __name__)
    samples = st.lists(st.binary(max_size=40), max_size=4).map(tuple)
    # a pool that has lost a worker begins anew, which takes a second
    endings = st.sampled_from([*["done"] * 40, *["fails"] * 4, "dies"])
    shards = st.builds(Shard, samples, st.integers(0, 2), endings)
    several = st.lists(shards, max_size=6).map(tuple)
    return st.builds(Case, several, st.integers(0, 6))


def targets() -> Iterator[Target]:
    """All of this file."""
    yield Target(
        name="two-engines",
        inputs=_cases,
        run=engines_agree,
        share=0.02,  # a case starts processes
        seconds=20,
        watched=False,  # it starts workers, which are sent what they do
    )
