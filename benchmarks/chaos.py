"""What is left of a training that everything happens to? Its samples, its masks and its losses.

    python benchmarks/chaos.py OUT [--events 200] [--steps 400] [--ranks 2] [--seed 0]

A training as in ``benchmarks/soak.py`` (ragged sources on a web server that fails now and then, a
small cache on disk, an adaptive mixture, real processes of several gloo ranks) is started again and
again, with other numbers of loader workers, and other numbers of ranks if ``--ranks`` names several
(``1,2,4``). Something happens to each start, drawn from ``EVENTS``: processes are killed, stopped
or told to end, the disk takes no more, checkpoints and cached blocks are spoilt.

Then: every draw that any loader ever made is, digest for digest, that of one undisturbed rank. With
one number of ranks every loss that was ever logged is, bit for bit, that of an undisturbed run of
as many ranks. No rank outlives another by more than a minute, and each end has its one line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import soak
from remote_servers import http_server
from remote_worlds import write_world

from fourm.rng import CounterRNG

MOST_SECONDS_APART = 60  # between the first rank's end and the last one's


@dataclass
class Training:
    """A training that is started many times in one folder."""

    config: Path
    out: Path
    rng: CounterRNG
    number: int = 0  # of starts
    ranks: int = 1
    workers: int = 0
    processes: list[subprocess.Popen] = field(default_factory=list)

    def draw(self, most: int, which: int) -> int:
        """A number in [0, most], new for each start and ``which``."""
        return int(self.rng.integers(0, most, self.number, which))

    def start(self, largest_file: int | None = None) -> None:
        """Start the processes; no file of theirs may grow over ``largest_file`` bytes."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        self.number += 1
        self.processes = soak.start(
            self.config, self.out, self.ranks, self.workers, prepare, self.screen.name
        )

    @property
    def screen(self) -> Path:
        """What the processes of this start have said."""
        return self.out / f"screen-{self.number:04d}.txt"

    @property
    def checkpoints(self) -> list[Path]:
        """Folders of whole checkpoints, the newest last."""
        return sorted((self.out / "run" / "checkpoints").glob("step_*"))

    def signal(self, number: int, processes: list[subprocess.Popen] | None = None) -> None:
        """Send a signal to ranks that still run, all of them if none are given."""
        for process in self.processes if processes is None else processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def end(self, expected: set[int]) -> None:
        """Wait until all ranks have ended. Raises AssertionError where one waits for long, ends
        with another status, or says a traceback.
        """
        deadline = time.monotonic() + MOST_SECONDS_APART
        while any(p.poll() is None for p in self.processes) and time.monotonic() < deadline:
            time.sleep(0.05)
        late = [p for p in self.processes if p.poll() is None]
        soak.kill(self.processes)
        assert not late, f"{len(late)} of {self.ranks} ranks did not end: {self.screen}"
        statuses = {p.returncode for p in self.processes}
        assert statuses <= expected, f"ended with {statuses}, not {expected}: {self.screen}"


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


class KillAll(Event):
    """As a machine that loses its power."""

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)


class KillRank(Event):
    """One process is gone: the others end by themselves."""

    def possible(self, training: Training) -> bool:
        return training.ranks > 1

    def strike(self, training: Training) -> None:
        victim = training.draw(training.ranks - 1, 10)
        soak.kill([training.processes[victim]])
        training.end({-signal.SIGKILL, 1})


class KillWorker(Event):
    """A loader's process is gone, as by the kernel for its memory."""

    def possible(self, training: Training) -> bool:
        return training.workers > 0

    def strike(self, training: Training) -> None:
        rank = training.processes[training.draw(training.ranks - 1, 10)]
        workers = [
            child
            for child in psutil.Process(rank.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]
        if not workers:  # it had ended
            return soak.kill(training.processes)
        workers[training.draw(len(workers) - 1, 11)].kill()
        training.end({1})


class Terminate(Event):
    """As a queue that wants its machine back."""

    def strike(self, training: Training) -> None:
        training.signal(signal.SIGTERM)
        training.end({0, 130, 143})


class InterruptTwice(Event):
    """Ctrl-C, and again by somebody who does not want to wait."""

    def strike(self, training: Training) -> None:
        training.signal(signal.SIGINT)
        time.sleep(0.1 * training.draw(5, 10))
        training.signal(signal.SIGINT)
        training.end({0, 1, 130, -signal.SIGINT})


class Pause(Event):
    """A rank stands still for a while; then the machine loses its power."""

    def strike(self, training: Training) -> None:
        victim = training.processes[training.draw(training.ranks - 1, 10)]
        training.signal(signal.SIGSTOP, [victim])
        time.sleep(1 + training.draw(2, 11))
        training.signal(signal.SIGCONT, [victim])
        before = soak.last_step(training.out)
        deadline = time.monotonic() + MOST_SECONDS_APART
        while soak.last_step(training.out) == before and time.monotonic() < deadline:
            if all(p.poll() is not None for p in training.processes):
                break  # it was at its last step
            time.sleep(0.05)
        soak.kill(training.processes)


class FullDisk(Event):
    """Nothing that is larger than a few kB can be written any more."""

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)
        training.start(largest_file=20_000)
        training.end({1, 2})
        assert "error:" in training.screen.read_text(), f"does not say why: {training.screen}"


class SpoilCheckpoint(Event):
    """The newest checkpoint is cut short, or a bit of it turns over."""

    def possible(self, training: Training) -> bool:
        return len(training.checkpoints) > 1

    def prepare(self, training: Training) -> None:
        newest = training.checkpoints[-1]
        files = sorted(newest.rglob("*.safetensors"), key=lambda path: path.name)
        path = files[training.draw(len(files) - 1, 12)]
        if training.draw(1, 13):
            os.truncate(path, path.stat().st_size // 2)
        else:
            turn_a_bit(path, training.draw(path.stat().st_size - 1, 14))

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)


class SpoilCache(Event):
    """A bit turns over in what was fetched from the web server."""

    def possible(self, training: Training) -> bool:
        return bool(cached_files(training.out))

    def prepare(self, training: Training) -> None:
        files = cached_files(training.out)
        path = files[training.draw(len(files) - 1, 12)]
        turn_a_bit(path, training.draw(path.stat().st_size - 1, 14))

    def strike(self, training: Training) -> None:
        soak.kill(training.processes)


EVENTS = [
    KillAll(),
    KillRank(),
    KillWorker(),
    Terminate(),
    InterruptTwice(),
    Pause(),
    FullDisk(),
    SpoilCheckpoint(),
    SpoilCache(),
]


def turn_a_bit(path: Path, place: int) -> None:
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 16]))


def cached_files(out: Path) -> list[Path]:
    """Blocks that a training has fetched."""
    return sorted(
        path
        for path in (out / "cache").rglob("*")
        if path.is_file() and path.stat().st_size > 2_000
    )


def losses_of(out: Path) -> dict[int, set[float]]:
    """All losses that were ever logged of each step."""
    found: dict[int, set[float]] = {}
    for line in (out / "run" / "log.jsonl").read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):  # cut short by a kill
            values = json.loads(line)
            if "loss" in values:
                found.setdefault(values["step"], set()).add(values["loss"])
    return found


def disturb(training: Training, events: int, steps: int, ranks: list[int]) -> Counter[str]:
    """Let things happen to a training, then let it end; returns what happened how often."""
    happened: Counter[str] = Counter()
    deck: list[Event] = []
    while happened.total() < events:
        training.ranks = ranks[training.draw(len(ranks) - 1, 0)]
        training.workers = training.draw(2, 1)
        if not deck:  # each event once a round, in another order
            places = training.rng.uniform(happened.total(), np.arange(len(EVENTS)))
            deck = [EVENTS[i] for i in places.argsort()]
        event = next((event for event in deck if event.possible(training)), KillAll())
        deck = [other for other in deck if other is not event]
        before = soak.last_step(training.out)
        wanted = before + 1 + training.draw(2, 3)  # ranks that have not met are their launcher's
        if wanted >= steps - 4:
            raise SystemExit(f"error: {steps} steps are too few for {events} events")
        event.prepare(training)
        training.start()
        soak.reach(training.processes, training.out, wanted)
        event.strike(training)
        happened[type(event).__name__] += 1
        print(
            f"{happened.total()}: {type(event).__name__}, {training.ranks} ranks, "
            f"{training.workers} workers, step {soak.last_step(training.out)}",
            flush=True,
        )
    training.ranks, training.workers = ranks[-1], 1
    training.start()
    soak.finish(training.processes)
    return happened


def chaos(root: Path, events: int, steps: int, ranks: list[int], seed: int) -> dict[str, object]:
    """The whole comparison; raises AssertionError for what was lost."""
    root.mkdir(parents=True, exist_ok=True)
    for i, num in enumerate((900, 1_500)):
        write_world(root / f"world{i}", num, seed=i, splits=("train", "val"))
    began = time.monotonic()
    with contextlib.ExitStack() as servers:
        running = [
            servers.enter_context(http_server(root / f"world{i}", broken_share=0.02))
            for i in range(2)
        ]
        config = soak.write_config(root, [server.url for server in running], steps)
        soak.finish(soak.start(config, root / "undisturbed", ranks[-1], 0))
        training = Training(config, root / "disturbed", CounterRNG(seed, "chaos"))
        happened = disturb(training, events, steps, ranks)
    draws = soak.compare(root, steps)
    undisturbed, disturbed = losses_of(root / "undisturbed"), losses_of(root / "disturbed")
    assert set(undisturbed) == set(disturbed) == set(range(1, steps + 1))
    apart = max(
        abs(loss - next(iter(undisturbed[step])))
        for step, losses in disturbed.items()
        for loss in losses
    )
    if len(set(ranks)) == 1:
        assert apart == 0.0, f"losses differ by up to {apart}"
    screens = sorted((root / "disturbed").glob("screen-*.txt"))
    tracebacks = sum("Traceback" in path.read_text(errors="replace") for path in screens)
    return {
        "events": happened.total(),
        "of each": dict(happened),
        "draws": draws["draws"],
        "made again": draws["made_again"],
        "ranks": ranks,
        "largest difference of a loss": apart,
        "starts with a traceback": tracebacks,
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--ranks", default="2", help="numbers of ranks to choose from, 1,2,4")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    numbers = [int(number) for number in given.ranks.split(",")]
    print(json.dumps(chaos(given.out, given.events, given.steps, numbers, given.seed)))
