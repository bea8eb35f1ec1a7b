"""What the ranks tell each other over a group of their hosts (gloo): how much a step holds, whether
one of them must stop, what they see and what they have written.

A step is asked about a step ahead: neither a device nor a host waits for the answer, unless another
rank is a whole step behind.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from fourm.errors import ProcessesLost
from fourm.training.task import Work


@dataclass(frozen=True)
class Shared:
    """A step, all ranks and micro-batches together."""

    counts: np.ndarray  # (K,) targets of each loss term
    work: Work
    stop: bool  # some rank was asked to stop


@dataclass(frozen=True)
class Asked:
    """A question to all ranks."""

    own: np.ndarray  # (K + 4,) what this rank says; the sum over all once ``request`` is done
    stop: Callable[[], bool]
    request: dist.Work | None = None  # None: this rank is alone

    def answer(self) -> Shared:
        """What all ranks said; one rank alone is asked to stop until the last moment."""
        if self.request is not None:
            self.request.wait()
        units, flops, unreadable, stops = self.own[-4:].tolist()
        stop = self.stop() if self.request is None else stops > 0
        return Shared(self.own[:-4], Work(units, flops, int(unreadable)), stop)


def _leave() -> None:
    """Close the connections of the hosts: what still listens as a process ends may abort it."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


@contextmanager
def telling_lost_processes() -> Iterator[None]:
    """What a connection says whose other end is gone, and torch of a loader's worker that is, as
    ProcessesLost.
    """
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker"):  # torch's handler knows no class of its own
            raise ProcessesLost(
                f"a process that loads data is gone ({str(error).strip()}); mostly the system had"
                " no memory left, then fewer loop.num_workers help. The same command goes on from"
                " the last checkpoint"
            ) from error
        # of gloo's errors only the text tells where they are from
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        told = str(error).strip().splitlines()[0]
        raise ProcessesLost(
            f"another rank of this training is gone ({told}); its own last lines say why. The same"
            " command goes on from the last checkpoint"
        ) from error


@contextmanager
def meeting(seconds: float) -> Iterator[None]:
    """What a connection says whose other end has not come in time, as ProcessesLost."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        told = str(error).strip().splitlines()[0]
        raise ProcessesLost(
            f"not all ranks of this training came within {seconds:g} s ({told}): the last lines of"
            " the others say why. Where they need longer to start, give loop.meeting_timeout"
        ) from error


class Ranks:
    """All processes of a training, over connections of their own.

    Args:
        timeout: seconds after which a rank that does not answer is given up.
        meeting_timeout: the same while they connect; 0 = as long.
    """

    def __init__(self, rank: int, num: int, timeout: float, meeting_timeout: float = 0.0) -> None:
        self.rank, self.num = rank, num
        self._group: Any = None
        if num > 1:
            first = meeting_timeout or timeout
            with meeting(first):
                self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=first))
            self._group.set_timeout(timedelta(seconds=timeout))
            atexit.register(_leave)

    @property
    def lead(self) -> bool:
        """True for the first of them."""
        return self.rank == 0

    def ask(self, counts: np.ndarray, work: Work, stop: Callable[[], bool]) -> Asked:
        """Tell the others this rank's counts (K,) and work, and whether it must stop (all ranks
        must call, in the same order).
        """
        alone = self._group is None
        stops = not alone and stop()
        told = np.array([*counts, work.units, work.flops, work.unreadable, stops], np.float64)
        if alone:
            return Asked(told, stop)
        shared = torch.from_numpy(told)  # the same memory
        return Asked(told, stop, dist.all_reduce(shared, group=self._group, async_op=True))

    def tell(self, said: Any) -> list[Any]:
        """What each rank says, as JSON has it, in their order (all must call)."""
        if self._group is None:
            return [said]
        text = torch.frombuffer(bytearray(json.dumps(said).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.num)]
        dist.all_gather(sizes, torch.tensor([len(text)]), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(text)] = text
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self._group)
        told = zip(parts, sizes, strict=True)
        return [json.loads(part[: int(size)].numpy().tobytes()) for part, size in told]
