"""Which split a sample goes to: one protocol, three kinds.

    --split-by val=0.1,test=0.05     shares of all samples, the rest is train
    --split-by folder                the folder that its files lie in: train/..., val/...
    --split-by COLUMN                what a column of the table or data set says

A share is a hash of the sample's key, or of its group (``--group-by COLUMN`` or ``folder``), so
that a sample keeps its split whatever else is imported, and samples of one group are never in two.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fourm.errors import UserError, listed, nearest

TRAIN = "train"
FOLDER = "folder"  # where a column could be named: the folder of a sample's files
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
# what others call our two
_KNOWN_AS = {"training": TRAIN, "validation": "val", "valid": "val", "dev": "val"}


@dataclass(frozen=True)
class Place:
    """What is known of a sample before it is read."""

    key: str
    folders: tuple[str, ...] = ()  # that its files lie in, the outermost first
    columns: Mapping[str, Any] = field(default_factory=dict)  # of its row
    group: str = ""  # of a column that is known by its name


class Split(Protocol):
    """Tells the split of each sample."""

    def of(self, place: Place, /) -> str:
        """Raises UserError for a sample of which nothing says it."""
        ...

    def check(self, columns: Sequence[str] | None, where: str, /) -> None:
        """Raises UserError for columns that a source has not; None = a source without columns."""
        ...


@dataclass(frozen=True)
class Shares:
    """Shares of all samples by name, in [0, 1]; what is left is train."""

    shares: tuple[tuple[str, float], ...] = (("val", 0.1),)
    group_by: str = ""  # a column, or folder; empty = the sample's known group, or itself

    def of(self, place: Place, /) -> str:
        place_of_hash = zlib.crc32(self._label(place).encode("utf-8", "backslashreplace")) / 2**32
        end = 0.0
        for name, share in self.shares:
            end += share
            if place_of_hash < end:
                return name
        return TRAIN

    def _label(self, place: Place) -> str:
        if self.group_by == FOLDER:
            return "/".join(place.folders) or place.key
        if self.group_by:
            found = place.columns.get(self.group_by)  # which may be 0
            return place.key if found is None or found == "" else str(found)
        return place.group or place.key

    def check(self, columns: Sequence[str] | None, where: str, /) -> None:
        if self.group_by and self.group_by != FOLDER:
            _check_column(self.group_by, "--group-by", columns, where)


@dataclass(frozen=True)
class ByFolder:
    """The outermost folder of a sample is its split."""

    def of(self, place: Place, /) -> str:
        if not place.folders:
            raise UserError("lies in no folder that names its split (--split-by folder)")
        return split_name(place.folders[0])

    def check(self, columns: Sequence[str] | None, where: str, /) -> None:
        pass


@dataclass(frozen=True)
class ByColumn:
    """A column names the split."""

    column: str

    def of(self, place: Place, /) -> str:
        found = place.columns.get(self.column)
        if found is None or not str(found).strip():
            raise UserError(f"column {self.column} does not say its split")
        return split_name(str(found).strip())

    def check(self, columns: Sequence[str] | None, where: str, /) -> None:
        _check_column(self.column, "--split-by", columns, where)


def split_name(text: str) -> str:
    """A name of a split as folders of shards are called: validation, valid and dev are val.

    Raises UserError for what can be none.
    """
    if not _NAME.fullmatch(text) or text == "manifests":
        raise UserError(f"{text!r} cannot be the name of a split")
    return _KNOWN_AS.get(text.lower(), text)


def parse_split(split_by: str, group_by: str = "") -> Split:
    """What ``--split-by`` and ``--group-by`` say; nothing = a tenth for validation.

    Raises UserError for shares that are no shares, and groups of a split that has none.
    """
    if not split_by:
        return Shares(group_by=group_by)
    if "=" in split_by:
        shares = tuple(map(_parse_share, split_by.split(",")))
        if sum(share for _, share in shares) >= 1.0:
            raise UserError(f"--split-by {split_by}: the shares leave nothing to train on")
        return Shares(shares, group_by)
    if group_by:
        raise UserError(
            f"--group-by {group_by} goes with shares (--split-by val=0.1): --split-by {split_by}"
            " says the split of each sample"
        )
    return ByFolder() if split_by == FOLDER else ByColumn(split_by)


def _parse_share(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0.0 < share < 1.0:
        raise UserError(
            f"--split-by {text!r} is no share such as val=0.1 (for a column or folder leave out =)"
        )
    return split_name(name.strip()), share


def _check_column(column: str, option: str, columns: Sequence[str] | None, where: str) -> None:
    if columns is None:
        raise UserError(
            f"{option} {column} names a column, and {where} has none: give folder"
            + (" or shares, e.g. val=0.1" if option == "--split-by" else "")
        )
    if column not in columns:
        raise UserError(
            f"{option}: {where} has no column {column!r}; it has {listed(columns)}"
            f"{nearest(column, columns)}"
        )
