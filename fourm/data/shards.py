"""Shards: webdataset tars, one folder for each modality, equal keys and order in each.

``<root>/<split>/<modality>/00000.tar`` holds members ``<key>.<ext>``. A shard is written under a
temporary name and renamed, with fixed times and owners, so that the same input gives the same
bytes. Reading goes from header to header (``fourm.data.tar_headers``), unpacks nothing and follows
no link, and skips damaged members one by one: each is listed in a ``DamageReport``, none stops its
shard, too many stop the run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from webdataset.writer import TarWriter

from fourm.data.tar_headers import Member, members_of
from fourm.errors import UserError

NO_KEY, TWICE = "a name that is no key or leaves its folder", "key appears twice"
MAX_MEMBER_BYTES = 1 << 30  # of a file of a tar
_NUM_TOLD = 3  # of what is skipped, in one line
WHOLE_SHARD = "*"  # key of a shard that cannot be read to its end


@dataclass(frozen=True)
class Damage:
    """One thing that was skipped and why."""

    shard: str
    key: str
    reason: str

    @property
    def sample(self) -> tuple[str, str, str]:
        """What it belongs to, whichever of its modalities is damaged: split, shard and key."""
        path = Path(self.shard)
        return path.parent.parent.name, path.stem, self.key


@dataclass
class DamageReport:
    """What was skipped, as a file beside the result; stops the run above ``max_rate``."""

    max_rate: float = 0.05
    entries: list[Damage] = field(default_factory=list)
    num_seen: int = 0

    @property
    def samples(self) -> set[tuple[str, str, str]]:
        """The samples that were skipped, each once."""
        return {entry.sample for entry in self.entries if entry.key != WHOLE_SHARD}

    @property
    def shards(self) -> set[str]:
        """The shards that could not be read to their end."""
        return {entry.shard for entry in self.entries if entry.key == WHOLE_SHARD}

    def add(self, shard: str | Path, key: str, reason: str) -> None:
        """Note what was skipped: a sample, or ``WHOLE_SHARD``."""
        self.entries.append(Damage(str(shard), key, reason))

    def merge(self, other: DamageReport) -> None:
        """Add what another report has seen and skipped."""
        self.entries.extend(other.entries)
        self.num_seen += other.num_seen

    def write(self, path: str | Path) -> None:
        """Write the report as JSON."""
        data = {
            "seen": self.num_seen,
            "skipped": len(self.samples),
            "shards_cut_short": len(self.shards),
            "entries": [asdict(e) for e in self.entries],
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(data, indent=1) + "\n")

    def told(self) -> str:
        """How many were skipped, and the first ones with their reasons."""
        shards = f", {len(self.shards)} shards end early" if self.shards else ""
        first = [f"{e.shard}: {e.key}: {e.reason}" for e in self.entries[:_NUM_TOLD]]
        more = "; ..." if len(self.entries) > _NUM_TOLD else ""
        return (
            f"{len(self.samples)} of {self.num_seen} samples are skipped{shards}"
            f" ({'; '.join(first)}{more})"
        )

    def check(self, path: str | Path) -> None:
        """Write the report if anything was skipped; raise UserError if that was more than
        ``max_rate`` of what was seen (a shard that ends early counts as one sample: how many it
        should hold is not known).
        """
        if not self.entries:
            return
        self.write(path)
        num_samples, num_shards = len(self.samples), len(self.shards)
        if num_samples + num_shards > self.max_rate * max(self.num_seen, 1):
            first = self.entries[0]
            cut = f", shards that end early: {num_shards}" if num_shards else ""
            raise UserError(
                f"{num_samples} of {self.num_seen} samples are damaged{cut} (first:"
                f" {first.shard}: {first.key}: {first.reason});"
                f" see {path}, or allow more with max_damage"
            )


def shard_paths(root: str | Path, split: str, modality: str) -> list[Path]:
    """The tars of one modality, in order."""
    return sorted(Path(root, split, modality).glob("*.tar"))


def shard_path(root: str | Path, split: str, modality: str, number: int) -> Path:
    """Where a tar lies: ``<root>/<split>/<modality>/<number>.tar``."""
    return Path(root, split, modality, f"{number:05d}.tar")


def write_shard(path: str | Path, members: Iterable[tuple[str, str, bytes]]) -> int:
    """Write (key, extension, bytes) members; the file appears whole or not at all. Returns their
    number.
    """
    path, count = Path(path), 0
    with (
        _replacing(path) as temporary,
        TarWriter(str(temporary), encoder=False, mtime=0.0, user="fourm", group="fourm") as writer,
    ):
        for key, extension, data in members:
            writer.write({"__key__": key, extension: data})
            count += 1
    return count


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name that becomes ``path`` at the end.

    What is cut short is removed: on a full disk it would keep the disk full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def member_name(name: str) -> tuple[str, str]:
    """Key and extension of a tar's member: as webdataset, the extension is what follows the first
    dot of the last part.
    """
    folder, slash, last = name.removeprefix("./").rpartition("/")
    key, _, extension = last.partition(".")
    return folder + slash + key, extension


def key_and_extension(
    name: str, member: str = "", named: Callable[[str], tuple[str, str]] = member_name
) -> tuple[str, str]:
    """Key and extension, in small letters, of a tar's member; no extension where it is of another
    modality than ``member``.
    """
    key, extension = named(name)
    if "." in extension:
        modality, _, extension = extension.rpartition(".")
        if modality != member:
            return key, ""
    return key, extension.lower()


def is_key(key: str) -> bool:
    """False for what is empty or leads out of a folder."""
    return bool(key) and not key.startswith("/") and ".." not in key.split("/")


def read_shard(
    path: str | Path,
    decode: Callable[[bytes, str], Any],
    extensions: tuple[str, ...],
    report: DamageReport,
    member: str = "",
    named: Callable[[str], tuple[str, str]] = member_name,
) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of a shard; what cannot be decoded goes to the report.

    Args:
        member: reads one modality out of a tar that holds several (``<key>.<modality>.<ext>``).
        named: a member's name -> key and extension, for tars that follow another rule.
    """
    seen: set[str] = set()
    try:
        with open(path, "rb") as stream:
            for info in members_of(path):
                key, extension = key_and_extension(info.name, member, named)
                if extension not in extensions:
                    continue
                report.num_seen += 1
                if not is_key(key):
                    report.add(path, info.name, NO_KEY)
                    continue
                if key in seen:
                    report.add(path, key, TWICE)
                    continue
                seen.add(key)
                try:
                    value = decode(read_member(stream.fileno(), info), extension)
                except ValueError as error:
                    report.add(path, key, str(error))
                    continue
                yield key, value
    except (UserError, OSError) as error:
        report.add(path, WHOLE_SHARD, f"the shard ends early: {error}")


def read_member(fd: int, member: Member) -> bytes:
    """The bytes of a file of an open tar. Raises UserError where they are not there, or too many
    for what a sample can hold.
    """
    if member.size > MAX_MEMBER_BYTES:
        raise UserError(f"a file of {member.size} bytes, more than a sample can hold")
    data = os.pread(fd, member.size, member.offset)
    if len(data) != member.size:
        raise UserError("truncated")
    return data


def write_json_atomic(path: str | Path, data: Any) -> None:
    """JSON under a temporary name, then renamed."""
    with _replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n")
