"""``range: auto``: measured in the training data once and written into the YAML file that says it.

The numbers of each such modality are read from its raw shards (of very many, evenly spaced ones);
``auto`` becomes a range that nearly all of them lie in, with what was found as a comment behind it.
The same data gives the same range, so it does not matter which command comes first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fourm.data.raw_sets import load_raw
from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.files.yaml_files import parse
from fourm.modalities import Modality
from fourm.raw import Raw, Spread

_MOST_SHARDS = 256  # that a range is measured in
_SPLIT = "train"


@dataclass(frozen=True)
class _Place:
    """Where a file says ``auto``: characters from ``start`` to ``end``."""

    start: int
    end: int


def settle_ranges(config: str | Path, raw: str | Path) -> list[str]:
    """Replace every ``range: auto`` in a YAML file of modalities; a line about each.

    Raises UserError where there are no training shards to measure in, or where the file takes the
    word from its base.
    """
    path = Path(config)
    waiting = [m for m in load_raw(path) if m.raw.is_open]
    if not waiting:
        return []
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    edits: dict[_Place, tuple[str, str]] = {}
    lines = []
    for m in waiting:
        place = _place_of(text, m)
        if place is None and m.source:
            continue  # its raw form is its source's, and is settled there
        if place is None or place in edits:
            raise UserError(
                f"{path}: modality {m.name} takes `range: auto` from elsewhere (a base, an anchor):"
                " say it in this file, under the modality, where the range will be written"
            )
        settled, told = _measured(m, Path(raw))
        edits[place] = str(settled), told
        lines.append(f"{m.name}: range {settled}, {told}; written into {path}")
    _write(path, text, edits)
    return lines


def _measured(m: Modality, raw: Path) -> tuple[Any, str]:
    """The range of a modality's training data as YAML has it, and what it was measured in."""
    shards = shard_paths(raw, _SPLIT, m.raw_name)
    if not shards:
        raise UserError(
            f"modality {m.name}: range: auto is measured in {raw / _SPLIT / m.raw_name}, where"
            " there are no shards: import first, or say the range"
        )
    spreads = spread_of(m.raw, shards[:: -(-len(shards) // _MOST_SHARDS)])
    if not spreads:
        raise UserError(f"modality {m.name}: no sample of {shards[0].parent} can be read")
    try:
        settled = m.raw.settled(spreads)
    except UserError as error:
        raise UserError(f"modality {m.name}: range: auto: {error}") from None
    num = max(spread.num_samples for spread in spreads.values())
    low = min(spread.low for spread in spreads.values())
    high = max(spread.high for spread in spreads.values())
    found = _listed(settled.range)  # pyright: ignore[reportAttributeAccessIssue]
    return found, f"auto: {num:,} training samples reach from {low:.4g} to {high:.4g}"


def spread_of(raw: Raw, shards: list[Path]) -> dict[str, Spread]:
    """How the numbers of all values in some shards are spread, by their names."""
    spreads: dict[str, Spread] = {}
    for shard in shards:
        for key, value in read_shard(shard, raw.read, raw.extensions, DamageReport()):
            for name, numbers in raw.measured(value).items():
                spreads.setdefault(name, Spread()).add(numbers, f"{shard.stem}/{key}")
    return spreads


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _place_of(text: str, m: Modality) -> _Place | None:
    """Where the file says ``auto`` for a modality; None if it says so elsewhere."""
    node: Any = yaml.compose(text, yaml.SafeLoader)
    for key in ("modalities", m.name, "raw", "range"):
        node = dict(_pairs(node)).get(key)
    if not isinstance(node, yaml.ScalarNode):
        return None
    return _Place(node.start_mark.index, node.end_mark.index)


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value


def _write(path: Path, text: str, edits: dict[_Place, tuple[str, str]]) -> None:
    """The file with its words replaced, whole or not at all; comments behind where the line lets
    them be there.
    """
    plain = noted = text
    for place, (settled, told) in sorted(edits.items(), key=lambda edit: -edit[0].start):
        plain = plain[: place.start] + settled + plain[place.end :]
        line, newline, rest = noted[place.end :].partition("\n")
        comment = "" if "#" in line else f"  # {told}"
        noted = noted[: place.start] + settled + line + comment + newline + rest
    try:
        same = parse(noted, str(path)) == parse(plain, str(path))
    except UserError:
        same = False
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    temporary.write_text(noted if same else plain, encoding="utf-8")
    os.replace(temporary, path)
