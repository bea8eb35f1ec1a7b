"""What ``fourm import`` reads of a YAML file with ``rasters``.

    surface: globe            # or {type: globe, natural: false, latitudes: [-60, 75]}, or plane
    rasters:                  # a modality each, co-registered; its raw type is the config's
      rgb: {file: blue_marble.jpg}
      land_cover: {file: cover.tif, nodata: 255, ids: {10: tree, 20: shrub, 80: water}}
      height: {file: height.png, scale: 25, missing: 0.2}
    tiles:
      side: 5                 # degrees from top to bottom; or pixels: 256, of: rgb
      train: 6000
      val: 600
      where: {land_cover: {classes: [water], most: 0.8}}
    split: {block: 10, share: 0.1, balance: land_cover}
    derived: {caption: "package.module:function"}

The raw type of a modality decides how its image is read: class maps by their values (or the
colours of their legend) and never mixed, pictures as colours, all else as numbers. An image that is
no modality of the config can serve conditions and derived values: it names its own ``raw``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fourm.config import at_least, from_mapping
from fourm.errors import UserError, nearest
from fourm.files.yaml_files import read_tree
from fourm.modalities import ModalitySet
from fourm.raw import Dense, Raw
from fourm_data_prep.rasters.surfaces import Extent, Globe, Surface


@dataclass(frozen=True, kw_only=True)
class Raster:
    """One image. ``file`` is relative to the YAML file."""

    file: str
    raw: Raw | None = None
    extent: Extent | None = None  # left, right, bottom, top; left out: a GeoTIFF's own, or all
    bands: tuple[int, ...] = ()  # which of the file's, from 0; the last of RGBA is transparency
    scale: float = 1.0  # a number is what is stored, times scale, plus offset
    offset: float = 0.0
    ids: dict[str, str] = field(default_factory=dict)  # value in the file -> class, by name
    colors: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # class -> its colour
    nodata: float | None = None  # what is stored where nothing is known ...
    fill: float | None = None  # ... and what stands for it; left out: the tile lacks the modality
    missing: float = 0.0  # share of tiles that lack it on purpose

    def __post_init__(self) -> None:
        if not 0.0 <= self.missing < 1.0:
            raise UserError(f"missing is a share from 0 to below 1, not {self.missing:g}")
        if self.extent and not (
            self.extent[0] < self.extent[1] and self.extent[2] < self.extent[3]
        ):
            raise UserError(f"extent is left, right, bottom, top, not {list(self.extent)}")
        if self.ids and self.colors:
            raise UserError("ids (of values) and colors (of pictures) exclude each other")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a tile must be: ``classes`` on at least and at most these shares of its pixels. An image
    with a condition must have data there.
    """

    classes: tuple[str, ...] = ()
    least: float = 0.0
    most: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How many tiles of which size, and which."""

    side: float = 0.0  # units of the surface from top to bottom
    pixels: int = 0  # or: this many pixels ...
    of: str = ""  # ... of this image
    train: int = 1000
    val: int = 100
    seed: int = 0
    where: dict[str, Condition] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(self, 1, "train")
        at_least(self, 0, "val", "side", "pixels")
        if bool(self.side) == bool(self.pixels) or bool(self.pixels) != bool(self.of):
            raise UserError("give the side of a tile, or its pixels and the image that they are of")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Blocks of the ground that are kept for validation. No tile touches one of the other split."""

    block: float = 0.0  # side, in units of the surface; 0: four times a tile's
    share: float = 0.1
    balance: str = ""  # a class map: held-out blocks have about their share of each of its classes

    def __post_init__(self) -> None:
        at_least(self, 0, "block")
        if not 0.0 < self.share < 1.0:
            raise UserError(
                f"share of the validation blocks is between 0 and 1, not {self.share:g}"
            )


@dataclass(frozen=True, kw_only=True)
class RasterSettings:
    """The file as a whole."""

    rasters: dict[str, Raster]
    tiles: Tiles
    surface: Surface = field(default_factory=Globe)
    split: Split = field(default_factory=Split)
    derived: dict[str, str] = field(default_factory=dict)  # modality -> package.module:function


@dataclass(frozen=True)
class RasterImport:
    """Settings, with what they mean for a set of modalities."""

    settings: RasterSettings
    folder: Path  # that files are relative to
    raws: dict[str, Raw]  # of every image and derived modality
    made: tuple[str, ...]  # modalities that are written

    def path(self, name: str) -> Path:
        """The file of an image."""
        return self.folder / self.settings.rasters[name].file


def is_raster_file(source: Path) -> bool:
    """True for a YAML file. Raises UserError for one without ``rasters``."""
    if source.suffix not in (".yaml", ".yml"):
        return False
    if "rasters" not in read_tree(source).data:
        raise UserError(f"{source} names no rasters to cut tiles from (docs/data.md)")
    return True


def load_rasters(path: Path, modalities: ModalitySet) -> RasterImport:
    """Settings from a file for a set of modalities.

    Raises UserError for a file that is missing, an image that nothing says how to read, a modality
    that nothing makes, a condition on what is no class map.
    """
    tree = read_tree(path)
    settings = from_mapping(RasterSettings, tree.data, tree.where)
    own = {m.name: m.raw for m in modalities if not m.source}
    both = sorted(settings.rasters.keys() & settings.derived.keys())
    if both:
        raise UserError(f"{path}: {both[0]} is an image and derived: it can be one of them")
    raws = dict(own)
    for name, raster in settings.rasters.items():
        raw = own.get(name, raster.raw)
        if raw is None:
            raise UserError(
                f"{path}: rasters.{name} is no modality of the config"
                f"{nearest(name, own)}; one that only serves conditions names its raw type"
            )
        if not isinstance(raw, Dense):
            raise UserError(f"{path}: rasters.{name}: {raw.type_name} is not read from an image")
        if not (path.parent / raster.file).is_file():
            raise UserError(f"{path}: rasters.{name}: no file {path.parent / raster.file}")
        raws[name] = raw
    made = settings.rasters.keys() | settings.derived.keys()
    for name in [*own, *settings.derived]:
        if name not in made or name not in own:
            known = "is no modality of the config" if name not in own else "is made by nothing"
            raise UserError(f"{path}: {name} {known}: name its raster, or derive it")
    for name in settings.tiles.where:
        if name not in settings.rasters:
            raise UserError(f"{path}: tiles.where.{name}: no such raster{nearest(name, raws)}")
    for key, name in (("tiles.of", settings.tiles.of), ("split.balance", settings.split.balance)):
        if name and name not in settings.rasters:
            raise UserError(f"{path}: {key}: no raster {name!r}{nearest(name, settings.rasters)}")
    return RasterImport(settings, path.parent, raws, tuple(own))
