"""Who is slow, and who hangs.

All ranks go through the same phases of the same steps, and wait for each other somewhere within.
``Progress`` notes where this rank is. From the time that is its own (waiting for batches, forward
passes) the log tells the slowest rank; backward passes end for all together. On a GPU that is the
host's time: a slow device shows in the backward pass of all.

Where nothing moves for ``loop.hang_timeout`` seconds, the rank that is furthest behind is named,
every rank prints the stacks of all its threads, and all end: a cluster that hangs costs as much as
one that works. A thread of each rank watches, and tells the others where its rank is through the
store at which they met. If that thread cannot run either (a library holds Python's lock),
``faulthandler`` ends the process from outside of Python.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch.distributed as dist

from fourm.training.ranks import Ranks

_log = logging.getLogger(__name__)
Phase = Literal[
    "starting", "batches", "ranks", "forward", "backward", "update", "evaluating", "saving"
]
_OWN: tuple[Phase, ...] = ("batches", "forward")
_TOLD = {
    "starting": "starting",
    "batches": "waiting for its batches",
    "ranks": "waiting for what the other ranks have",
    "forward": "in a forward pass",
    "backward": "in a backward pass",
    "update": "in the update",
    "evaluating": "evaluating",
    "saving": "saving",
}
STATUS = 1  # of a process that the watchdog ends
_SLOW = 1.5  # times the median: then a rank is named
_WORTH_NAMING = 0.005  # seconds a step


@dataclass(frozen=True)
class Place:
    """Where a rank is."""

    rank: int
    host: str
    step: int  # that it works on, from 1
    phase: Phase
    moves: int  # phases so far: the least of all ranks is the one that others wait for
    waits: bool  # its stack ends in torch.distributed

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}, {_TOLD[self.phase]}, step {self.step}"


class Progress:
    """Which phase of which step this rank is in, and how long it was in each."""

    def __init__(self) -> None:
        self.step, self.moves, self.since = 0, 0, time.monotonic()
        self.phase: Phase = "starting"
        self._own, self._steps = 0.0, 0
        self.named: int | None = None  # the rank that was slow when the log was last written

    def at(self, phase: Phase, step: int | None = None) -> None:
        """From now on this rank is in ``phase`` (of ``step``, if it is another one)."""
        now = time.monotonic()
        if self.phase in _OWN:
            self._own += now - self.since
        if step is not None and step != self.step:
            self._steps += 1
            self.step = step
        self.moves += 1
        self.phase, self.since = phase, now

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """In ``phase`` for a while, then in the one before again."""
        before = self.phase
        self.at(phase)
        yield
        self.at(before)

    def own_seconds(self) -> float:
        """Seconds a step that were this rank's own, since the last time it was asked."""
        seconds = self._own / max(self._steps, 1)
        self._own, self._steps = 0.0, 0
        return seconds


def compare(progress: Progress, ranks: Ranks) -> dict[str, float]:
    """How long a step takes each rank, for the log; a rank far above the others is named when it
    begins to be (all must call). Nothing for one rank.
    """
    if ranks.num == 1:
        return {}
    told = ranks.tell([progress.own_seconds(), socket.gethostname()])
    times = np.array([seconds for seconds, _ in told])
    slowest = int(times.argmax())
    usual = float(np.median(np.delete(times, slowest)))
    stands_out = times[slowest] > max(_SLOW * usual, usual + _WORTH_NAMING)
    if stands_out and progress.named != slowest and ranks.lead:
        _log.warning(
            "rank %d on %s is slow: %.3g s of its own in a step, the others %.3g s",
            slowest,
            told[slowest][1],
            times[slowest],
            usual,
        )
    progress.named = slowest if stands_out else None
    return {
        "rank_seconds": float(np.median(times)),
        "slowest_rank_seconds": float(times[slowest]),
        "slowest_rank": slowest,
    }


class Watchdog:
    """Ends this process when nothing has moved for ``timeout`` seconds (0: never)."""

    def __init__(self, progress: Progress, ranks: Ranks, timeout: float) -> None:
        self._progress, self._ranks, self._timeout = progress, ranks, timeout
        self._beat = min(timeout / 8, 5.0)
        self._store = None
        if ranks.num > 1:
            # a connection of its own: the main thread may be waiting on the other
            self._store = dist.distributed_c10d._get_default_store().clone()  # pyright: ignore
        self._stopped = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while a run goes on."""
        if not self._timeout:
            yield
            return
        self._progress.since = time.monotonic()
        main = threading.get_ident()
        thread = threading.Thread(target=self._watch, args=(main,), name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()
            faulthandler.cancel_dump_traceback_later()

    def _watch(self, main: int) -> None:
        while not self._stopped.wait(self._beat):
            # a process alone may have been stopped and continued by hand, which looks alike
            if self._ranks.num > 1 and sys.__stderr__ is not None:
                last = self._timeout + 8 * self._beat
                faulthandler.dump_traceback_later(last, exit=True, file=sys.__stderr__)
            self._publish(main)
            still = time.monotonic() - self._progress.since
            # an evaluation may be long; those who wait for another rank's are past it
            if still >= self._timeout and self._progress.phase != "evaluating":
                self._end(main, still)

    def _here(self, main: int) -> Place:
        frame = sys._current_frames().get(main)
        waits = False
        while frame is not None and not waits:
            waits = "torch/distributed/" in frame.f_code.co_filename
            frame = frame.f_back
        p, ranks = self._progress, self._ranks
        return Place(ranks.rank, socket.gethostname(), p.step, p.phase, p.moves, waits)

    def _publish(self, main: int) -> None:
        if self._store is not None:
            with suppress(dist.DistError):
                self._store.set(f"place/{self._ranks.rank}", json.dumps(asdict(self._here(main))))

    def _end(self, main: int, still: float) -> None:
        """Name who is behind, show all stacks, and end without asking anyone."""
        self._stopped.wait(2 * self._beat)  # others have told where they are by then
        if self._stopped.is_set() or time.monotonic() - self._progress.since < self._timeout:
            return
        behind = "; ".join(map(str, self._behind(main)))
        print(
            f"\nerror: nothing has moved for {still:.0f} s (loop.hang_timeout={self._timeout:g}):"
            f" {behind}. The stacks of rank {self._ranks.rank} follow; the run goes on from its"
            " last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
        sys.stderr.flush()
        # whose end cuts the others short, which are about to show theirs
        self._stopped.wait(3 * self._beat)
        os._exit(STATUS)

    def _behind(self, main: int) -> list[Place]:
        """The rank or ranks that the others wait for."""
        places = [self._here(main)]
        if self._store is not None:
            keys = [f"place/{rank}" for rank in range(self._ranks.num)]
            with suppress(dist.DistError):  # the rank that keeps the store may be gone
                known = [key for key in keys if self._store.check([key])]
                places = [Place(**json.loads(self._store.get(key))) for key in known]
        least = min(place.moves for place in places)
        behind = [place for place in places if place.moves == least]
        return [place for place in behind if not place.waits] or behind
