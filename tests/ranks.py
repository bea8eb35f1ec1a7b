"""Trainings of several ranks in tests: real processes that meet over gloo, started one by one or by
torchrun.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from fourm.cpu_ranks import rank_environments

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([".", "tokenizers", "data_prep", "tests"]),
    "OMP_NUM_THREADS": "1",
    "ACCELERATE_USE_CPU": "1",
}
# a training of the config argv[1] with the overrides argv[2:]; code may come before it
RUN = """
import sys
from fourm.cli import main
main(["pretrain", *sys.argv[1:]])
"""


@dataclass
class Group:
    """Ranks of one training."""

    processes: list[subprocess.Popen] = field(default_factory=list)

    def ends(self, timeout: float = 120.0) -> tuple[list[int], list[str]]:
        """Exit statuses and what each said, once all have ended."""
        try:
            told = [process.communicate(timeout=timeout)[1] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], told

    def succeed(self) -> None:
        """All ranks must end well."""
        statuses, told = self.ends()
        assert not any(statuses), "\n".join(text[-3000:] for text in told)


def start_ranks(
    num: int, config: Path, *overrides: str, before: str = "", per_machine: int = 0, **extra: str
) -> Group:
    """A training as ``num`` processes; ``before`` is code that each runs first, ``extra`` are
    variables of the environment.
    """
    group = Group()
    for i, own in enumerate(rank_environments(num)):
        here = {"LOCAL_WORLD_SIZE": str(per_machine)} if per_machine else {}
        environment = {**ENVIRONMENT, **own, **here, **extra}
        if extra.get("ACCELERATE_USE_FSDP"):
            environment.pop("ACCELERATE_USE_CPU")
        command = [sys.executable, "-c", before + RUN, str(config), *overrides]
        group.processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        )
    return group


def run_ranks(num: int, config: Path, *overrides: str, **options) -> None:
    """The same to its end, which must be a good one."""
    start_ranks(num, config, *overrides, **options).succeed()


def torchrun(num: int, config: Path, *overrides: str) -> subprocess.Popen:
    """The same under torchrun, in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(num), "-m", "fourm", "pretrain", str(config), *overrides]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
