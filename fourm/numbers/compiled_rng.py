"""The random numbers of ``fourm.numbers.rng``, one at a time, for compiled code.

``CounterRNG`` is the definition; a test compares the two. Its numbers are a chain of mixes over the
counters, so a chain that many numbers share is made once: ``along(along(root, draw), index)`` is
the state of all that belongs to a draw and an index. Bits and uniform numbers are equal; those that
pass through a logarithm or a cosine agree to the last place or two, where numpy's own differ from
one processor to the next.
"""

from __future__ import annotations

import math

import numpy as np

from fourm.numbers.compiled import compiled
from fourm.numbers.rng import GAMMA_ATTEMPTS

# unsigned like what they are used with: numba makes a float of unsigned and signed together
_GOLDEN, _MIX_1, _MIX_2 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_11, _27, _30, _31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)


@compiled
def along(state: np.uint64, counter: int) -> np.uint64:
    """State of a chain (uint64) one counter (an integer) further."""
    bits = (state ^ np.uint64(counter)) + _GOLDEN
    bits = (bits ^ (bits >> _30)) * _MIX_1
    bits = (bits ^ (bits >> _27)) * _MIX_2
    return bits ^ (bits >> _31)


@compiled
def uniform(state: np.uint64) -> float:
    """A float in (0, 1)."""
    return (np.float64(state >> _11) + 0.5) * 2.0**-53


@compiled
def integer(low: int, high: int, state: np.uint64) -> int:
    """An integer in [low, high], both ends included."""
    return low + math.floor(uniform(state) * (high - low + 1))


@compiled
def normal(state: np.uint64) -> float:
    """A standard normal draw (Box-Muller)."""
    radius = math.sqrt(-2.0 * math.log(uniform(along(state, 0))))
    return radius * math.cos(2.0 * math.pi * uniform(along(state, 1)))


@compiled
def log_boost(alpha: float, state: np.uint64) -> float:
    """The part of ``log_gamma`` that makes a draw of alpha out of one of alpha + 1."""
    return math.log(uniform(along(state, 4))) / alpha


@compiled
def log_gamma_plus_one(alpha: float, state: np.uint64) -> float:
    """The other part: the logarithm of a Gamma(alpha + 1, 1) draw (Marsaglia and Tsang, 2000)."""
    d = alpha + 1.0 - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    for attempt in range(GAMMA_ATTEMPTS):
        tried = along(state, attempt)
        z = normal(along(tried, 2))
        root = 1.0 + c * z
        v = root * root * root
        if v > 0:
            u = uniform(along(tried, 3))
            # what the first test accepts the second does too: it spares two logarithms
            if u < 1.0 - 0.0331 * z**4 or math.log(u) < 0.5 * z * z + d * (1.0 - v + math.log(v)):
                return math.log(d * v)
    return math.log(d)


@compiled
def log_gamma(alpha: float, state: np.uint64) -> float:
    """The logarithm of a Gamma(alpha, 1) draw."""
    return log_gamma_plus_one(alpha, state) + log_boost(alpha, state)
