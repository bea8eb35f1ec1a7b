"""Whether a pretraining fits some GPUs, and what to change where it does not; and how long it takes
at a share of their peak that is assumed. Arithmetic, on any machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from fourm.doctor.activations import Rows
from fourm.doctor.needs import Needs, Ranks, Sizes
from fourm.errors import UserError
from fourm.training.device import known_peak
from fourm.training.loop_config import LoopConfig
from fourm.training.speed import GIB

ROOM = 0.9  # share of the memory that may be needed: kernels write, and memory falls to pieces
USUAL_MFU = 0.4  # what is assumed of a step that nobody has tried
_SIZE = re.compile(r"(?P<name>.*?)\s*(?P<gb>\d+(?:\.\d+)?)\s*(?:GB|GiB)", re.IGNORECASE)


@dataclass(frozen=True)
class Gpu:
    """One of equal accelerators."""

    name: str
    memory: int  # bytes
    peak: float | None  # operations a second; None = not known

    @staticmethod
    def of(text: str, precision: str) -> Gpu:
        """From its memory, and its name if hours are wanted: ``80GB``, ``H100 80GB``.

        Raises UserError for anything else.
        """
        found = _SIZE.fullmatch(text.strip())
        if found is None or not float(found["gb"]):
            raise UserError(f"--gpu {text!r} is not a memory such as 80GB or 'H100 80GB'")
        peak = known_peak(found["name"], precision) if found["name"] else None
        if found["name"] and peak is None:
            raise UserError(f"--gpu: no peak is known of {found['name']!r}; give its memory alone")
        return Gpu(text.strip(), int(float(found["gb"]) * GIB), peak)


@dataclass(frozen=True)
class Way:
    """One way to train: what is kept where, and what is recomputed."""

    ranks: Ranks
    micro_batches: int
    checkpointing: bool

    def changes(self, loop: LoopConfig) -> str:
        """What to say and type to get from the config to this way."""
        said = []
        if self.checkpointing != loop.activation_checkpointing:
            said.append(f"loop.activation_checkpointing={str(self.checkpointing).lower()}")
        if self.micro_batches != loop.micro_batches:
            said.append(f"loop.micro_batches={self.micro_batches}")
        if self.ranks.num > 1 and self.ranks.sharding != loop.sharding:
            said.append(f"loop.sharding={self.ranks.sharding}")
        return f"with {' '.join(said)}" if said else "as it is"


@dataclass(frozen=True)
class Planned:
    """A way and what a rank needs for it."""

    way: Way
    needs: Needs
    fits: bool


@dataclass(frozen=True)
class Plan:
    """A config on ``num_ranks`` equal GPUs."""

    gpu: Gpu
    loop: LoopConfig
    num_ranks: int
    ways: tuple[Planned, ...]  # as the config is; with other ways to place and recompute
    fitting: Planned | None  # the least change that fits
    flops: float  # of a step
    mfu: float

    @property
    def as_it_is(self) -> Planned:
        """The way that the config itself takes."""
        own = Way(
            _own_placement(self.loop, self.num_ranks),
            self.loop.micro_batches,
            self.loop.activation_checkpointing,
        )
        return next(planned for planned in self.ways if planned.way == own)

    @property
    def hours(self) -> float | None:
        """Of the whole run on all ranks together; None if the GPU's peak is not known."""
        if self.gpu.peak is None:
            return None
        return self.flops * self.loop.steps / (self.gpu.peak * self.mfu * self.num_ranks) / 3600

    def lines(self) -> list[str]:
        """For a reader: a row a way, the verdict, the hours."""
        loop, columns = self.loop, [f.name for f in fields(Needs)]
        samples = loop.batch_size // self.num_ranks
        lines = [
            f"a rank                 {samples:,} of {loop.batch_size:,} samples a step, in"
            f" {loop.micro_batches} of {samples // loop.micro_batches:,}",
            f"{'GiB a rank':<33} {' '.join(f'{name:>11}' for name in (*columns, 'together'))}",
        ]
        for planned in self.ways:
            way, needs = planned.way, planned.needs
            name = f"{way.ranks}{', recomputing' if way.checkpointing else ''}"
            row = [getattr(needs, column) for column in columns]
            numbers = " ".join(f"{n / GIB:11.2f}" for n in (*row, needs.memory))
            own = " <- this config" if planned == self.as_it_is else ""
            fits = "fits" if planned.fits else "does not fit"
            lines.append(f"  {name:<31} {numbers}  {fits}{own}")
        lines.append(f"{self.gpu.name:<22} {self._verdict()}")
        if self.hours is not None:
            lines.append(
                f"the run                {loop.steps:,} steps: {self.hours:,.3g} hours at an"
                f" assumed {self.mfu:.0%} MFU on {self.num_ranks} x {self.gpu.name}"
            )
        return lines

    def _verdict(self) -> str:
        if self.fitting is not None:
            return f"fits {self.fitting.way.changes(self.loop)}"
        return "does not fit even one sample at a time: more ranks, or GPUs with more memory"


def plan(
    sizes: Sizes, loop: LoopConfig, sample: Rows, flops: float, num_ranks: int, gpu: Gpu, mfu: float
) -> Plan:
    """Of a config whose mean sample has rows ``sample`` and whose step costs ``flops``.

    Raises UserError where the ranks cannot share the batch evenly.
    """
    check_divides(loop, num_ranks)
    samples = loop.batch_size // num_ranks

    def planned(way: Way) -> Planned:
        tried = replace(
            loop, micro_batches=way.micro_batches, activation_checkpointing=way.checkpointing
        )
        needs = sizes.needs(tried, way.ranks, sample.times(samples // way.micro_batches))
        return Planned(way, needs, needs.memory <= ROOM * gpu.memory)

    table = tuple(
        planned(Way(ranks, loop.micro_batches, checkpointing))
        for ranks in _placements(num_ranks)
        for checkpointing in (False, True)
    )
    fitting = next((p for p in map(planned, _ways(loop, num_ranks, samples)) if p.fits), None)
    return Plan(gpu, loop, num_ranks, table, fitting, flops, mfu)


def check_divides(loop: LoopConfig, num_ranks: int) -> None:
    """Raise UserError unless the batch falls into equal micro-batches on so many ranks."""
    if loop.batch_size % (num_ranks * loop.micro_batches):
        raise UserError(
            f"batch_size {loop.batch_size} is not a multiple of {num_ranks} ranks x"
            f" {loop.micro_batches} micro_batches"
        )


def _placements(num_ranks: int) -> list[Ranks]:
    if num_ranks == 1:
        return [Ranks()]
    return [Ranks(num_ranks), Ranks(num_ranks, "node"), Ranks(num_ranks, "all")]


def _own_placement(loop: LoopConfig, num_ranks: int) -> Ranks:
    return Ranks(num_ranks, loop.sharding) if num_ranks > 1 else Ranks()


def _ways(loop: LoopConfig, num_ranks: int, samples: int) -> Iterator[Way]:
    """From the config as it is on, what costs least first: a few more micro-batches, then
    sharding, then recomputing (a third more operations), then micro-batches as small as they get.
    """
    parts = [n for n in range(loop.micro_batches, samples + 1) if samples % n == 0]
    few = [n for n in parts if n <= 4 * loop.micro_batches]
    again = (True,) if loop.activation_checkpointing else (False, True)
    placements = _placements(num_ranks)
    own = placements.index(_own_placement(loop, num_ranks))
    for counts in (few, parts):
        for checkpointing in again:
            for ranks in placements[own:]:
                for count in counts:
                    yield Way(ranks, count, checkpointing)
