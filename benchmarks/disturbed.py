"""A training that is started again and again, and what may happen to it (``chaos.py``)."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import soak

from fourm.numbers.rng import CounterRNG
from fourm.training.checkpoints import list_checkpoints

MOST_SECONDS_APART = 60  # between the first rank's end and the last one's


@dataclass
class Training:
    """A training that is started many times in one folder."""

    config: Path
    out: Path
    rng: CounterRNG
    patience: float = 1.0  # how much slower than an idle one the machine is
    number: int = 0  # of starts
    ranks: int = 1
    workers: int = 0
    processes: list[ForkServerProcess] = field(default_factory=list)
    apart: list[float] = field(default_factory=list)  # seconds until the last rank had ended

    def draw(self, most: int, which: int) -> int:
        """A number in [0, most], new for each start and ``which``."""
        return int(self.rng.integers(0, most, self.number, which))

    def start(self, largest_file: int | None = None) -> None:
        """Start the processes; no file of theirs may grow over ``largest_file`` bytes."""
        self.number += 1
        self.processes = soak.start(
            self.config,
            self.out,
            self.ranks,
            self.workers,
            functools.partial(_prepare, largest_file),
            self.screen.name,
        )

    @property
    def screen(self) -> Path:
        """What the processes of this start have said."""
        return self.out / f"screen-{self.number:04d}.txt"

    @property
    def checkpoints(self) -> list[Path]:
        """Folders of whole checkpoints, the newest last."""
        return list_checkpoints(self.out / "run" / "checkpoints")

    def reach(self, step: int) -> None:
        """Wait until a step was logged."""
        soak.reach(self.processes, self.out, step, 300 * self.patience)

    def signal(self, number: int, processes: list[ForkServerProcess] | None = None) -> None:
        """Send a signal to ranks that still run, all of them if none are given."""
        for process in self.processes if processes is None else processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    def end(self, expected: set[int]) -> None:
        """Wait until all ranks have ended. Raises AssertionError where one waits for long, ends
        with another status, or says a traceback.
        """
        began = time.monotonic()
        most = MOST_SECONDS_APART * self.patience
        while any(p.is_alive() for p in self.processes) and time.monotonic() < began + most:
            time.sleep(0.05)
        self.apart.append(time.monotonic() - began)
        late = [p for p in self.processes if p.is_alive()]
        soak.kill(self.processes)
        assert not late, f"{len(late)} of {self.ranks} ranks did not end: {self.screen}"
        statuses = {p.exitcode for p in self.processes}
        assert statuses <= expected, f"ended with {statuses}, not {expected}: {self.screen}"


def _prepare(largest_file: int | None) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


class Event(ABC):
    """Something that happens to a training."""

    @abstractmethod
    def strike(self, training: Training) -> None:
        """Let it happen to a training that runs, and see that it ends."""

    def prepare(self, training: Training) -> None:  # noqa: B027 (most have nothing to prepare)
        """Before the training starts."""

    def possible(self, training: Training) -> bool:
        """Whether it can happen to this start."""
        return True


def workers_of(number: int) -> list[psutil.Process]:
    """Processes that a process has started, but for the tracker that every one of them has."""
    found = []
    for child in psutil.Process(number).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends in this moment
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child)
    return found
