"""Where sampling's random numbers come from.

Every number is addressed by (target, sample's seed, purpose, step, position), so a result depends
on neither batch size, neighbours nor any global generator.
"""

from __future__ import annotations

import zlib
from enum import IntEnum

from fourm.numbers.rng import CounterRNG


class Purpose(IntEnum):
    """What a number at (seed, purpose, step, position) is for; saved ids depend on the values."""

    TOKEN = 1  # which id a position gets
    NOISE = 2  # how much a scheme's choice of positions is shaken


class Roll(IntEnum):
    """What an integer at (seed, roll) is for: how far an order is moved for each sample."""

    DOWN = 1
    ACROSS = 2


def target_rng(name: str, sweep: int | None = None) -> CounterRNG:
    """The numbers of the target modality called ``name``; each sweep over it has its own."""
    stream = "sampling" if sweep is None else f"sweep {sweep}"
    return CounterRNG(zlib.crc32(name.encode()), stream)
