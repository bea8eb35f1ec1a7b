"""How many samples each picture gives, noted beside the tokens: pictures that are read raw are then
cut as those were of which the tokens were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourm.config import at_least, from_mapping, read_yaml, to_mapping
from fourm.data.crops import Crop, crop_of, crops_of, sample_key
from fourm.data.shards import DamageReport, read_shard, write_json_atomic
from fourm.errors import UserError
from fourm.files.formats import FORMAT, check_format
from fourm.raw import Raw

CROP_SETTINGS = "crop_settings"  # folder of (top, left, height, width, mirrored) of each sample
NOTE = "crops.json"


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Crops of each picture, a pure function of its key."""

    num_crops: int = 1  # the whole picture among them
    flip: bool = False  # half of the others are mirrored
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self, 1, "num_crops")

    def of(self, key: str) -> list[Crop]:
        """The crops of the picture ``key``."""
        return crops_of(key, self.num_crops, self.seed, self.flip)

    def crop(self, key: str, number: int) -> Crop | None:
        """One of them; None if pictures are not cropped at all but read as they are."""
        return None if self.num_crops == 1 else crop_of(key, number, self.seed, self.flip)

    def write(self, split: Path) -> None:
        """Note them in a split's folder of tokens."""
        write_json_atomic(split / CROP_SETTINGS / NOTE, {"format": FORMAT, **to_mapping(self)})

    @staticmethod
    def read(split: Path) -> CropSettings:
        """Those of a split's folder of tokens; no such folder means no crops. Raises UserError for
        crops of releases up to 0.6, which left no note.
        """
        folder = split / CROP_SETTINGS
        if not folder.is_dir():
            return CropSettings()
        if not (folder / NOTE).is_file():
            raise no_note(str(folder))
        return CropSettings.of_note(folder / NOTE)

    @staticmethod
    def of_note(path: Path) -> CropSettings:
        """Those that a note tells of. Raises UserError where it is none."""
        described = read_yaml(path)
        check_format(described, path)
        described.pop("format", None)
        return from_mapping(CropSettings, described, str(path))


def no_note(folder: str) -> UserError:
    """Of a folder of crops that does not say how they were made."""
    return UserError(
        f"{folder} does not say how its crops were made, which pictures need: run"
        " `fourm tokenize` with the same --crops again, it notes that and keeps all tokens"
    )


def cut_samples(
    shards: Sequence[Path],
    raw: Raw,
    read: Callable[[bytes, str], np.ndarray],
    crops: CropSettings,
    member: str,
    report: DamageReport,
) -> Iterator[tuple[Path, str, np.ndarray]]:
    """Shard, key and value of the samples that files give: each cut, as tokens of it would be.

    Raises UserError for raw types that cannot be cut.
    """
    for path in shards:
        for key, value in read_shard(path, read, raw.extensions, report, member):
            for number, crop in enumerate(crops.of(key)):
                yield path, sample_key(key, number), raw.cut(value, crop)
