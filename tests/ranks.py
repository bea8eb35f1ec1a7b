"""Trainings of several ranks in tests: real processes that meet over gloo.

They are forked from a server that has imported everything once, so that a rank starts at once.
``torchrun`` starts them as a user does.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fourm.training.cpu_ranks import rank_environments

ROOT = Path(__file__).parent.parent
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fourm.training.pretrain", "fourm.cli", "torch.distributed.fsdp"])


def _of_rank(
    environment: dict[str, str],
    arguments: list[str],
    told: Path,
    prepare: Callable[[], None] | None,
) -> None:
    """A verb of ``fourm`` as one rank, in its own process."""
    import torch

    from fourm.cli import main

    os.environ.update(environment)
    with open(told, "w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    main(arguments)


@dataclass
class Group:
    """Ranks of one training."""

    processes: list
    files: list[Path]  # what each said

    def end(self, timeout: float = 60.0) -> list[int]:
        """Exit statuses once all have ended; those that do not are killed."""
        for process in self.processes:
            process.join(timeout)
        hung = [i for i, process in enumerate(self.processes) if process.is_alive()]
        for process in self.processes:
            process.kill()
            process.join()
        assert not hung, f"ranks {hung} did not end: {self.told}"
        return [process.exitcode for process in self.processes]

    @property
    def told(self) -> list[str]:
        """What each rank said."""
        return [path.read_text() for path in self.files]


def start_ranks(
    num: int,
    config: Path,
    *overrides: str,
    prepare: Callable[[], None] | None = None,
    per_machine: int = 0,
    verb: str = "pretrain",
    **extra: str,
) -> Group:
    """A training as ``num`` processes.

    Args:
        verb: what trains.
        prepare: what each does first.
        per_machine: how many of them are taken to be on one machine; 0 = all.
        extra: variables of the environment.
    """
    folder = config.parent / "told"
    folder.mkdir(exist_ok=True)
    group = Group([], [])
    for i, own in enumerate(rank_environments(num)):
        here = {"LOCAL_WORLD_SIZE": str(per_machine)} if per_machine else {}
        environment = {"ACCELERATE_USE_CPU": "true", **own, **here, **extra}
        told = folder / f"{len(list(folder.iterdir()))}-{i}.txt"
        arguments = environment, [verb, str(config), *overrides], told, prepare
        process = _CONTEXT.Process(target=_of_rank, args=arguments)
        process.start()
        told.touch()
        group.processes.append(process)
        group.files.append(told)
    return group


def run_ranks(
    num: int, config: Path, *overrides: str, timeout: float = 60.0, **options
) -> list[str]:
    """The same to its end, which must be a good one; what each rank said."""
    group = start_ranks(num, config, *overrides, **options)
    statuses = group.end(timeout)
    assert not any(statuses), "\n".join(told[-3000:] for told in group.told)
    return group.told


def torchrun(num: int, config: Path, *overrides: str) -> subprocess.Popen:
    """The same under torchrun, in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num), "-m", "fourm", "pretrain", str(config), *overrides]
    paths = os.pathsep.join([".", "tokenizers", "data_prep"])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment, "ACCELERATE_USE_CPU": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
