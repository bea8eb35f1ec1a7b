"""``members.jsonl``: the files in the tars of a folder, beside them.

Headers stand between the members, so that listing a tar by its headers over a network would fetch
nearly all of it. ``fourm publish`` reads them on the disk and writes a line a tar: name, first byte
and size of every file in it, how many vectors those have that may hold some, and what is wrong with
the tar. A reader downloads that once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fourm.data.shards import MAX_MEMBER_BYTES
from fourm.data.tar_headers import Member, members_of
from fourm.errors import UserError
from fourm.files.json_files import parse_mapping
from fourm.raw.vectors import Vectors, num_vectors

LISTING = "members.jsonl"


@dataclass(frozen=True)
class ListedTar:
    """A tar as its line of a listing has it (``fourm.data.blobs.Tar``)."""

    path: str  # its address
    size: int  # bytes
    files: list[tuple[str, int, int]]  # name, first byte, bytes
    damage: str  # what ended the list early; empty = nothing did
    # number of vectors of each file, -1 where it has none; empty in listings of earlier releases
    # and of tars that hold nothing of the kind
    lengths: list[int] = field(default_factory=list)

    def members(self) -> Iterator[Member]:
        for name, offset, size in self.files:
            yield Member(name, offset, size)
        if self.damage:
            raise UserError(self.damage)


def write_listing(folder: Path) -> None:
    """List the tars that lie in a folder."""
    temporary = folder / f".{LISTING}"
    with open(temporary, "w") as out:
        for path in sorted(folder.glob("*.tar")):
            files, damage, size = [], "", path.stat().st_size
            try:
                for member in members_of(path):
                    files.append((member.name, member.offset, member.size))
            except (UserError, OSError) as error:
                damage = str(error)
            line = {"tar": path.name, "size": size, "files": files, "damage": damage}
            with open(path, "rb") as tar:
                lengths = [_length(tar, *file) for file in files]
            if max(lengths, default=-1) >= 0:
                line["lengths"] = lengths
            out.write(json.dumps(line) + "\n")
    temporary.replace(folder / LISTING)


def _length(tar: BinaryIO, name: str, offset: int, size: int) -> int:
    """How many vectors a file of a tar holds, -1 if it holds none."""
    extension = name.rpartition(".")[2].lower()
    if extension not in Vectors.extensions or size > MAX_MEMBER_BYTES:
        return -1
    tar.seek(offset)
    try:
        return num_vectors(tar.read(size), extension)
    except UserError:
        return -1


def read_listing(path: Path, tars: Iterable[tuple[str, int]]) -> Iterator[ListedTar]:
    """What a listing says of the tars at these addresses, of so many bytes, in their order.

    Raises UserError where it is of other tars.
    """
    with open(path, errors="replace") as lines:
        for url, size in tars:
            listed = parse_mapping(next(lines, "{}"), path)
            name = url.rpartition("/")[2]
            if (listed.get("tar"), listed.get("size")) != (name, size):
                raise UserError(
                    f"{url} is not the tar that {LISTING} beside it lists: run `fourm publish` on"
                    " the folder and upload it again"
                )
            files = _files(listed, path)
            damage, lengths = str(listed.get("damage", "")), listed.get("lengths", [])
            if lengths and [type(n) for n in lengths] != [int] * len(files):
                raise _damaged(path)
            yield ListedTar(url, size, files, damage, lengths)


def _files(listed: dict[str, Any], path: Path) -> list[tuple[str, int, int]]:
    """Name, first byte and bytes of the files of a line. Raises UserError for anything else."""
    try:
        files = [(str(name), int(start), int(size)) for name, start, size in listed["files"]]
    except (KeyError, ValueError, TypeError, OverflowError):
        files = [("", -1, -1)]
    if any(start < 0 or size < 0 for _, start, size in files):
        raise _damaged(path)
    return files


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged: run `fourm publish` on the folder again")
