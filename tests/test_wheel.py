"""What is released: built from the files of the repository, the same bytes each time, with all that
is needed elsewhere and nothing else.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from source import ROOT

# The shipped model of the demo world is most of it.
MOST_BYTES = 14_000_000
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""


def files_of_the_repository() -> list[str]:
    """Tracked and new files, or all that is no output where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no git here: which files belong to the repository is not known")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def copied(place: Path) -> Path:
    """The repository's files in a folder of their own."""
    for name in files_of_the_repository():
        if not name.startswith(("tests/", "benchmarks/")):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    return place


def built(source: Path) -> tuple[Path, Path]:
    """Wheel and sdist of a folder of sources."""
    out = source.parent / f"{source.name}-dist"
    out.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> tuple[Path, Path]:
    return built(copied(tmp_path_factory.mktemp("first") / "source"))


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    return dist[0]


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_files_give_the_same_bytes_and_so_does_the_sdist(dist, tmp_path):
    wheel, sdist = dist
    assert hash_of(built(copied(tmp_path / "again"))[0]) == hash_of(wheel)
    subprocess.run(["tar", "xzf", sdist, "-C", tmp_path], check=True)
    (source,) = tmp_path.glob("fourm-*/")
    assert hash_of(built(source)[0]) == hash_of(wheel)


def test_the_wheel_has_the_packages_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    folders = {"fourm": "fourm", "fourm_tokenizers": "tokenizers/fourm_tokenizers"}
    folders["fourm_data_prep"] = "data_prep/fourm_data_prep"
    expected = {f"fourm/{name}" for name in files_of_the_repository() if name[:8] == "configs/"}
    for package, folder in folders.items():
        listed = [name for name in files_of_the_repository() if name.startswith(f"{folder}/")]
        expected |= {package + name.removeprefix(folder) for name in listed}
    assert names ^ expected == set()


def test_the_wheel_is_as_small_as_it_says(wheel):
    assert wheel.stat().st_size <= MOST_BYTES


@pytest.mark.slow
def test_what_is_installed_elsewhere_generates(wheel, tmp_path):
    place = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(place), str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(place), "HOME": str(tmp_path)}
    command = [sys.executable, "-P", "-m", "fourm", "generate", "--steps", "2", "--out", "out"]
    done = subprocess.run(
        [*command, "--caption", "a large red cube", "rgb"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "out").rglob("*.png"))
    where = [sys.executable, "-P", "-c", "import fourm; print(fourm.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert Path(found.stdout.strip()).is_relative_to(place)
