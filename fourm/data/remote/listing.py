"""``members.jsonl``: the files in the tars of a folder, beside them.

Headers stand between the members, so that listing a tar by its headers over a network would fetch
nearly all of it. ``fourm publish`` reads them on the disk and writes a line a tar: name, first byte
and size of every file in it, and what is wrong with it. A reader downloads that once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fourm.data.tar_headers import Member, members_of
from fourm.errors import UserError
from fourm.json_files import parse_mapping

LISTING = "members.jsonl"


@dataclass(frozen=True)
class ListedTar:
    """A tar as its line of a listing has it (``fourm.data.blobs.Tar``)."""

    path: str  # its address
    size: int  # bytes
    files: list[tuple[str, int, int]]  # name, first byte, bytes
    damage: str  # what ended the list early; empty = nothing did

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
            files, damage = [], ""
            try:
                for member in members_of(path):
                    files.append((member.name, member.offset, member.size))
            except (UserError, OSError) as error:
                damage = str(error)
            line = {"tar": path.name, "size": path.stat().st_size, "files": files, "damage": damage}
            out.write(json.dumps(line) + "\n")
    temporary.replace(folder / LISTING)


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
            yield ListedTar(url, size, _files(listed, path), str(listed.get("damage", "")))


def _files(listed: dict[str, Any], path: Path) -> list[tuple[str, int, int]]:
    """Name, first byte and bytes of the files of a line. Raises UserError for anything else."""
    try:
        files = [(str(name), int(start), int(size)) for name, start, size in listed["files"]]
    except (KeyError, ValueError, TypeError, OverflowError):
        files = [("", -1, -1)]
    if any(start < 0 or size < 0 for _, start, size in files):
        raise UserError(f"{path} is damaged: run `fourm publish` on the folder again")
    return files
