"""How fast a run is, between two lines of its log: nothing here asks the device for anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fourm.training.device import peak_flops, peak_memory
from fourm.training.task import Work

GIB = 1 << 30


@dataclass(frozen=True)
class Speed:
    """Figures of some steps."""

    seconds: float  # a step
    units: float  # a second
    unit: str
    data_wait: float  # share of the time that was spent waiting for batches
    memory: int  # most bytes so far
    mfu: float | None  # share of the devices' peak that went into the model's own operations

    def figures(self) -> dict[str, float]:
        """As a line of the log has them."""
        found = {
            "step_seconds": self.seconds,
            f"{self.unit}_per_second": self.units,
            "data_wait": self.data_wait,
            "memory_gib": self.memory / GIB,
        }
        return found if self.mfu is None else {**found, "mfu": self.mfu}

    def __str__(self) -> str:
        told = [f"{self.seconds:.3g} s/step", f"{self.units:,.0f} {self.unit}/s"]
        if self.mfu is not None:
            told.append(f"{self.mfu:.0%} MFU")
        told += [f"{self.data_wait:.0%} waiting for data", f"{self.memory / GIB:.1f} GiB"]
        return ", ".join(told)


class Meter:
    """Adds up what steps did, and the time that was theirs.

    Args:
        peak: operations a second of all devices together; None = not known.
    """

    def __init__(self, unit: str, device: torch.device, peak: float | None) -> None:
        self._unit, self._device, self._peak = unit, device, peak
        self.restart()

    @classmethod
    def of(cls, unit: str, device: torch.device, precision: str, num_devices: int) -> Meter:
        """A meter of devices that are alike."""
        peak = peak_flops(device, precision)
        return cls(unit, device, None if peak is None else peak * num_devices)

    def restart(self) -> None:
        """Forget what was; the clock runs from here."""
        self._started, self._aside, self._waited = time.perf_counter(), 0.0, 0.0
        self._steps, self._work = 0, Work(0.0, 0.0)

    def add(self, work: Work) -> None:
        """One step of all ranks."""
        self._steps += 1
        self._work += work

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time that a batch is waited for."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time that is no step's: evaluating, saving."""
        started = time.perf_counter()
        yield
        self._aside += time.perf_counter() - started

    def speed(self) -> Speed:
        """Since the last restart. Steps still queued on a device count as done: ask where it is
        idle.
        """
        seconds = max(time.perf_counter() - self._started - self._aside, 1e-9)
        mfu = self._work.flops / seconds / self._peak if self._peak and self._work.flops else None
        return Speed(
            seconds / max(self._steps, 1),
            self._work.units / seconds,
            self._unit,
            self._waited / seconds,
            peak_memory(self._device),
            mfu,
        )
