"""Inputs that readers meet: valid files with damage, values of every form, numbers at the edges."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

EDGES = (0, 1, -1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63)
_WORDS = (
    b"\0",
    b"\xff" * 8,
    b"-1",
    b"0",
    b"99999999999",
    b"1e999",
    b"NaN",
    b"null",
    b"[[[[",
    b"..",
)
_MOST_CHANGES = 6
DEEP = 20_000  # brackets in each other


def damaged(data: bytes, number: int) -> bytes:
    """One of many damaged forms of a file, a function of the number."""
    draw = random.Random(number)
    changed = bytearray(data)
    for _ in range(draw.randint(0, _MOST_CHANGES)):
        if not changed:
            break
        at = draw.randrange(len(changed))
        how = draw.randrange(8)
        if how == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif how == 1:
            changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, 0x2D, 0x30, 0x39))
        elif how == 2:  # numbers as binary formats have them
            kind = draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            room = struct.calcsize(kind)
            value = draw.choice(EDGES) % (1 << 8 * room)
            changed[at : at + room] = struct.pack(kind, value)
        elif how == 3:
            del changed[at:]
        elif how == 4:
            del changed[at : at + draw.randint(1, 40)]
        elif how == 5:
            changed[at:at] = draw.choice(_WORDS)
        elif how == 6:  # numbers as texts have them
            changed[at : at + 1] = draw.choice((b"9" * draw.randint(1, 5000), b"-9", b"0.1"))
        else:
            start = draw.randrange(len(changed))
            changed[at:at] = changed[start : start + draw.randint(1, 200)]
    return bytes(changed)


def files_like(seeds: Sequence[bytes]) -> SearchStrategy[bytes]:
    """Damaged forms of some files, and bytes of any kind."""
    numbers = st.integers(0, 2**62)
    like = st.builds(damaged, st.sampled_from(list(seeds)), numbers)
    return st.one_of(like, like, like, st.binary(max_size=80))


def numbers() -> SearchStrategy[Any]:
    """Numbers of every size."""
    return st.one_of(
        st.sampled_from([*EDGES, 10**400, -(10**400), 0.5, 1e308, float("inf"), float("nan")]),
        st.integers(-5, 300),
        st.floats(),
    )


def texts() -> SearchStrategy[str]:
    """Texts of every script, and those that mean something somewhere."""
    known = ["", "..", "/etc/passwd", "os:system", "\0", "v0=9", "9" * 5000, "!!int", "a\nb", "*"]
    return st.one_of(st.text(max_size=12), st.sampled_from(known))


def values(most: int = 12) -> SearchStrategy[Any]:
    """What JSON and YAML can hold."""
    leaf = st.one_of(st.none(), st.booleans(), numbers(), texts())
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=5), st.dictionaries(texts(), inner, max_size=4)
        ),
        max_leaves=most,
    )


def nested(opening: str = "[", closing: str = "]") -> str:
    """Brackets so deep that a reader that calls itself overflows."""
    return opening * DEEP + closing * DEEP


def changed_tree(tree: Any, number: int, others: Sequence[Any]) -> Any:
    """A tree of mappings and lists with one to three of its parts replaced, removed or doubled."""
    draw = random.Random(number)
    result = _copied(tree)
    for _ in range(draw.randint(1, 3)):
        holders: list[tuple[Any, Any]] = []
        _collect(result, holders)
        if not holders:
            return _copied(draw.choice(others))
        holder, key = draw.choice(holders)
        how = draw.randrange(6)
        if how == 0 and isinstance(holder, dict):
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw.choice(("type", "base", "raw", "x", "", "size"))] = holder[key]
        else:
            holder[key] = _copied(draw.choice(others))
    return result


def _copied(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _collect(tree: Any, found: list[tuple[Any, Any]]) -> None:
    places = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(places):
        found.append((tree, key))
        if isinstance(value, (dict, list)):
            _collect(value, found)


def trees_like(trees: Sequence[Any]) -> SearchStrategy[Any]:
    """Trees with some of their parts changed."""
    others = [
        *(None, True, "", "x", "..", "auto", "os:system", "image", [], {}, [[]], {"type": "x"}),
        *(0, 1, -1, 3, 0.5, -0.0, 1e30, 2**31, 2**63, 10**400, float("nan"), float("inf")),
        *([1, 2], [0, 0], [2, 1], "1e3", "9" * 5000, {"a": {"b": []}}, ["a", 1], b"x", [None]),
    ]
    return st.builds(
        changed_tree, st.sampled_from(list(trees)), st.integers(0, 2**62), st.just(others)
    )
