"""How right the words of captions and the labels of boxes are, and captions with a word missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fourm.demo.world import COLORS, SHAPES

Solids = list[tuple[str, str]]  # (colour, shape) of each solid of a scene

_GAP = "[S_1]"


def attribute_f1(captions: Sequence[str], solids: Sequence[Solids]) -> float:
    """F1 of the (colour, shape) pairs that captions name: a colour word directly before a shape
    word.
    """
    return _f1([set(pairwise(text.split())) & _PAIRS for text in captions], solids)


def label_f1(boxes: Sequence[list[dict[str, Any]]], solids: Sequence[Solids]) -> float:
    """F1 of the (colour, shape) pairs that labels of boxes name."""
    named = [{tuple(str(box["label"]).split()) for box in found} for found in boxes]
    return _f1([pairs & _PAIRS for pairs in named], solids)


def exact_share(said: Sequence[str], truth: Sequence[str]) -> float:
    """Share of captions that are right in every word: size, colour, shape and order."""
    return float(np.mean([a == b for a, b in zip(said, truth, strict=True)]))


def with_gap(caption: str, number: int) -> tuple[str, int]:
    """A caption that lacks its size, colour or shape (they take turns by ``number``) in its first
    or its last solid, and which word that is.
    """
    words = caption.split()
    starts = [i for i, word in enumerate(words) if word == "a"]
    place = starts[number % len(starts)] + 1 + number // len(starts) % 3
    return " ".join([*words[:place], _GAP, *words[place + 1 :]]), place


def filled_share(said: Sequence[str], truth: Sequence[str], places: Sequence[int]) -> float:
    """Share of captions whose missing word is the right one, all others left as they were given."""
    right = [a == b and len(b.split()) > p for a, b, p in zip(said, truth, places, strict=True)]
    return float(np.mean(right))


_PAIRS = {(color, shape) for color in COLORS for shape in SHAPES}


def _f1(named: list[set[tuple[str, ...]]], solids: Sequence[Solids]) -> float:
    matched = sum(len(said & set(true)) for said, true in zip(named, solids, strict=True))
    total = sum(map(len, named)) + sum(map(len, solids))
    return 2 * matched / max(total, 1)
