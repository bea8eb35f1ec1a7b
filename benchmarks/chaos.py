"""What is left of a training that everything happens to? Its samples, its masks and its losses.

    python benchmarks/chaos.py OUT [--events 200] [--steps 400] [--ranks 2] [--seed 0]

A training as in ``benchmarks/soak.py`` (ragged sources on a web server that fails now and then, a
small cache on disk, an adaptive mixture, real processes of several gloo ranks) is started again and
again, with other numbers of loader workers, and other numbers of ranks if ``--ranks`` names several
(``1,2,4``). Something happens to each start, drawn from ``EVENTS``: processes are killed, stopped
or told to end, the disk takes no more, checkpoints and cached blocks are spoilt; an import and the
page beside it lose processes (an import by Ray too, where that is installed). The same command goes
on where it was ended.

Then: every draw that any loader ever made is, digest for digest, that of one undisturbed rank. With
one number of ranks every loss that was ever logged is, bit for bit, that of an undisturbed run of
as many ranks. No rank outlives another by more than a minute (``--patience`` times that on a
machine with other work), and each end has its one line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import soak
import yaml
from beside import KillImporter, KillPage, KillRayWorker
from disturbed import MOST_SECONDS_APART, Event, Training, workers_of
from remote_servers import http_server
from remote_worlds import write_world

from fourm.numbers.rng import CounterRNG


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
        workers = workers_of(rank.pid or 0)
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
        deadline = time.monotonic() + MOST_SECONDS_APART * training.patience
        while soak.last_step(training.out) == before and time.monotonic() < deadline:
            if not any(p.is_alive() for p in training.processes):
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
    KillImporter(),
    KillPage(),
    KillRayWorker(),
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


# Python's own thread that hands tensors to loader workers prints one, and goes on, where a worker
# is killed in the moment in which they meet; the rank ends by its line all the same
_OF_PYTHON = re.compile(r"Traceback[^\n]*\n[^\n]*multiprocessing/resource_sharer\.py")


def says_a_traceback(screen: str) -> bool:
    """Whether a training has ended with more than its line."""
    return screen.count("Traceback") > len(_OF_PYTHON.findall(screen))


def ports_of(root: Path) -> list[int]:
    """Of the servers: those of an earlier start of this command, whose addresses are known."""
    config = root / "pretrain.yaml"
    if not config.is_file():
        return [0, 0]
    sources = yaml.safe_load(config.read_text())["data"]["sources"]
    return [urlsplit(source["tokens"]).port or 0 for source in sources]


def disturb(
    training: Training, events: int, steps: int, ranks: list[int], kinds: Sequence[Event]
) -> list[dict]:
    """Let things happen to a training, then let it end; returns what happened.

    What has happened is written down, and what is there is not done again.
    """
    told = training.out / "events.jsonl"
    happened = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    training.number = max((event["start"] for event in happened), default=0)
    deck: list[Event] = []
    while len(happened) < events:
        training.ranks = ranks[training.draw(len(ranks) - 1, 0)]
        training.workers = training.draw(2, 1)
        if not deck:  # each event once a round, in another order
            places = training.rng.uniform(len(happened), np.arange(len(kinds)))
            deck = [kinds[i] for i in places.argsort()]
        event = next((event for event in deck if event.possible(training)), KillAll())
        deck = [other for other in deck if other is not event]
        # ranks that have not met are their launcher's
        wanted = soak.last_step(training.out) + 1 + training.draw(2, 3)
        if wanted >= steps - 4:
            raise SystemExit(f"error: {steps} steps are too few for {events} events")
        event.prepare(training)
        training.start()
        training.reach(wanted)
        event.strike(training)
        happened.append(
            {
                "event": type(event).__name__,
                "start": training.number,
                "ranks": training.ranks,
                "workers": training.workers,
                "step": soak.last_step(training.out),
                "apart": [round(seconds, 2) for seconds in training.apart],
            }
        )
        training.apart.clear()
        with open(told, "a") as file:
            file.write(json.dumps(happened[-1]) + "\n")
        print(len(happened), happened[-1], flush=True)
    training.ranks, training.workers = ranks[-1], 1
    training.start()
    soak.finish(training.processes)
    return happened


def chaos(
    root: Path,
    events: int,
    steps: int,
    ranks: list[int],
    seed: int,
    patience: float = 1.0,
    kinds: Sequence[Event] = EVENTS,
) -> dict[str, object]:
    """The whole comparison; raises AssertionError for what was lost."""
    root.mkdir(parents=True, exist_ok=True)
    for i, num in enumerate((900, 1_500)):
        if not (root / f"world{i}").exists():
            write_world(root / f"world{i}", num, seed=i, splits=("train", "val"))
    began = time.monotonic()
    with contextlib.ExitStack() as servers:
        running = [
            servers.enter_context(http_server(root / f"world{i}", port, broken_share=0.02))
            for i, port in enumerate(ports_of(root))
        ]
        config = soak.write_config(root, [server.url for server in running], steps)
        soak.finish(soak.start(config, root / "undisturbed", ranks[-1], 0))
        training = Training(config, root / "disturbed", CounterRNG(seed, "chaos"), patience)
        happened = disturb(training, events, steps, ranks, kinds)
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
    tracebacks = sum(says_a_traceback(path.read_text(errors="replace")) for path in screens)
    waits = [seconds for event in happened for seconds in event["apart"]]
    return {
        "events": len(happened),
        "of each": dict(Counter(event["event"] for event in happened)),
        "draws": draws["draws"],
        "made again": draws["made_again"],
        "ranks": ranks,
        "largest difference of a loss": apart,
        "longest wait for the last rank": max(waits, default=0.0),
        "starts with a traceback": tracebacks,
        "seconds": round(time.monotonic() - began),
    }


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--ranks", default="2", help="numbers of ranks to choose from, 1,2,4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=1.0, help="how much longer to wait")
    given = parser.parse_args()
    numbers = [int(number) for number in given.ranks.split(",")]
    options = given.events, given.steps, numbers, given.seed, given.patience
    print(json.dumps(chaos(given.out, *options)))
