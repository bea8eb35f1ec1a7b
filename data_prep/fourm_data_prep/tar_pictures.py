"""Webdataset tars of pictures and captions as a source: ``<key>.jpg``, ``<key>.txt``.

``<key>.<modality>.<ext>`` beside ``<key>.<ext>`` is another modality of that picture and left
alone; where there is no such picture, dots belong to the name. The pictures of a tar are read once,
for all splits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fourm.data.shards import Damage, DamageReport, member_name, read_member, read_shard
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.modalities import Modality
from fourm_data_prep.picture_shards import (
    PICTURE_KINDS,
    Item,
    describe,
    plain_key,
    write_pictures,
)
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint, stamp
from fourm_data_prep.splits import Place, Split


class ImportTarsStep:
    """Pictures and captions of each tar -> one shard of each split that has any."""

    name = "import"

    def __init__(self, made: list[Modality], tars: list[Path], out: Path, split: Split) -> None:
        split.check(None, "a folder of tars")
        self.made, self.tars, self.out, self.split = made, tars, out, split

    def described(self) -> dict[str, Any]:
        return describe(self.made)

    def jobs(self) -> list[Job]:
        described = repr(self.split)
        inputs = [fingerprint([described, stamp(tar)]) for tar in self.tars]
        return [Job("tar", number, of) for number, of in enumerate(inputs)]

    def run(self, job: Job) -> ShardResult:
        report, tar = DamageReport(), self.tars[job.number]
        told = _names_and_texts(tar)
        names = [member_name(name) for name in told]
        pictures = {key for key, extension in names if extension.lower() in PICTURE_KINDS}

        def named(name: str) -> tuple[str, str]:
            key, extension = member_name(name)
            if "." not in extension or key in pictures:
                return key, extension
            more, _, extension = extension.rpartition(".")
            return f"{key}.{more}", extension

        captions = {
            named(name)[0]: text
            for name, text in told.items()
            if text is not None and named(name)[1].lower() == "txt"
        }
        unsplit: list[Damage] = []

        def found() -> Iterator[tuple[Item, bytes]]:
            pictures = read_shard(tar, lambda data, _: data, PICTURE_KINDS, report, named=named)
            for key, data in pictures:
                plain, folders = plain_key(key), tuple(key.split("/")[:-1])
                try:
                    split = self.split.of(Place(plain, folders))
                except UserError as error:
                    unsplit.append(Damage(str(tar), plain, str(error)))
                    continue
                caption = " ".join(captions.get(key, "").split())
                yield Item(plain, tar, caption, split=split), data

        result = write_pictures(found(), self.made, self.out, job)
        return replace(result, damage=(*result.damage, *unsplit, *report.entries))


def _names_and_texts(tar: Path) -> dict[str, str | None]:
    """Names in a tar, as far as it can be read, and what texts say; pictures are passed over."""
    found: dict[str, str | None] = {}
    with contextlib.suppress(UserError, OSError), open(tar, "rb") as stream:
        for info in members_of(tar):
            found[info.name] = None
            if info.name.lower().endswith(".txt"):
                data = read_member(stream.fileno(), info)
                found[info.name] = "" if b"\0" in data else data.decode("utf-8-sig", "replace")
    return found
