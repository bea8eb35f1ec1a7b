"""What is compared: pictures and captions of a folder, whichever way they lie there.

Files anywhere below it (a caption is the ``.txt`` beside its picture), or tars: those of a split of
raw shards (``data/raw/train``, with a folder a modality), or any others. A key is what the other
tools call the sample: ``<shard>/<key>``, or the file's path below the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fourm.data.shards import DamageReport, read_shard
from fourm.errors import UserError
from fourm.raw.image import Image

PICTURES = Image.extensions
CAPTIONS = ("txt",)


@dataclass(frozen=True)
class Folder:
    """A folder of pictures and captions.

    Args:
        pictures, captions: folders of these modalities, where the folder has a folder a modality.
    """

    root: Path
    pictures: str = "rgb"
    captions: str = "caption"

    def check(self) -> None:
        """Raise UserError unless there is something to compare."""
        if not self.root.is_dir():
            raise UserError(
                f"no folder {self.root}: --leaks wants two folders, of training and of"
                " held-out samples"
            )
        if next(self.read_pictures(DamageReport()), None) is None and not self.read_captions():
            raise UserError(
                f"{self.root} has no pictures ({', '.join(PICTURES)}): give a split of raw shards"
                " (data/raw/train), a folder of tars or of picture files"
            )

    def read_pictures(self, report: DamageReport) -> Iterator[tuple[str, bytes]]:
        """Key and encoded picture of each sample."""
        return self._read(self.pictures, PICTURES, report)

    def read_captions(self) -> dict[str, str]:
        """The captions there are, by key."""
        found = self._read(self.captions, CAPTIONS, DamageReport())
        return {key: data.decode("utf-8", "replace").strip() for key, data in found}

    def _read(
        self, modality: str, extensions: tuple[str, ...], report: DamageReport
    ) -> Iterator[tuple[str, bytes]]:
        own = self.root / modality
        tars = sorted((own if own.is_dir() else self.root).rglob("*.tar"))
        member = "" if own.is_dir() else modality
        for path in tars:
            for name in dict.fromkeys(("", member)):
                for key, data in read_shard(path, _as_it_is, extensions, report, name):
                    yield f"{path.stem}/{key}", data
        if tars:
            return
        for path in sorted(self.root.rglob("*")):
            if path.suffix.lower().lstrip(".") in extensions and path.is_file():
                report.num_seen += 1
                yield str(path.relative_to(self.root).with_suffix("")), path.read_bytes()


def _as_it_is(data: bytes, extension: str) -> bytes:
    return data
