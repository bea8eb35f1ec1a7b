"""Captions that two folders share, word for word or nearly.

Captions are compared as sets of three words in a row. MinHash (Broder, 1997) finds those that share
most of them in near-linear time; the sets themselves decide. Short captions say too little: many
pictures are "a red ball".
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

MIN_WORDS = 6  # of a caption that can be told again
MIN_SHARED = 0.75  # of two captions' threes of words (Jaccard index)
_BANDS, _ROWS = 16, 3  # similar sets of threes share a band of hashes
_PRIME = np.uint64((1 << 61) - 1)
_FACTOR, _ADDED = np.random.default_rng(0).integers(
    1, 1 << 29, (2, _BANDS * _ROWS, 1), dtype=np.uint64
)


def shared_captions(
    first: Mapping[str, str], second: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """(key in the first, key in the second, share of threes) of captions that are alike."""
    held = {key: found for key, text in second.items() if (found := threes(text))}
    buckets: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for key, words in held.items():
        for band in _bands(words):
            buckets[band].append(key)
    pairs = []
    for key, text in first.items():
        words = threes(text)
        if not words:
            continue
        near = {other for band in _bands(words) for other in buckets.get(band, ())}
        for other in sorted(near):
            share = len(words & held[other]) / len(words | held[other])
            if share >= MIN_SHARED:
                pairs.append((key, other, share))
    return pairs


def threes(text: str) -> frozenset[int]:
    """Numbers of the threes of words of a caption; none of one that is too short."""
    words = re.findall(r"\w+", text.casefold())
    if len(words) < MIN_WORDS:
        return frozenset()
    return frozenset(zlib.crc32(" ".join(words[i : i + 3]).encode()) for i in range(len(words) - 2))


def _bands(words: frozenset[int]) -> list[tuple[int, bytes]]:
    """The bands of hashes of a set: (number, smallest hashes)."""
    hashed = _FACTOR * np.fromiter(words, np.uint64, len(words)) + _ADDED
    smallest = (hashed % _PRIME).min(1).reshape(_BANDS, _ROWS)
    return [(number, row.tobytes()) for number, row in enumerate(smallest)]
