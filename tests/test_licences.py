"""Everything in the repository that is no text is named with its licence; locked versions are those
that are tested together, each with its hashes, and can be had for each Python that is promised.
"""

import fnmatch
import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FONTS = (".ttf", ".otf", ".woff", ".woff2")


def shipped() -> list[Path]:
    """Files of the repository, those that are not yet committed too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("no git repository")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def is_text(path: Path) -> bool:
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data


def test_every_file_that_is_no_text_is_named_with_its_licence():
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / "licences.md").read_text(), re.M)
    patterns = [name for row in rows for name in re.findall(r"`(.+?)`", row)]
    binary = [path.relative_to(ROOT).as_posix() for path in shipped() if not is_text(path)]
    assert any("model.safetensors" in name for name in binary)
    unnamed = [b for b in binary if not any(fnmatch.fnmatch(b, p) for p in patterns)]
    assert not unnamed
    idle = [p for p in patterns if not any(fnmatch.fnmatch(b, p) for b in binary)]
    assert not idle, "a row of nothing"


def test_there_are_no_fonts():
    assert not [path for path in shipped() if path.suffix in FONTS]


def test_locked_versions_are_those_of_the_constraints_each_with_its_hashes():
    pinned = re.findall(r"^([\w.-]+==[^\s;]+)", (ROOT / "constraints.txt").read_text(), re.M)
    lock = (ROOT / "requirements.lock").read_text()
    locked = re.findall(
        r"^([\w.-]+==\S+).*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}.*\n?)+)", lock, re.M
    )
    normal = lambda name: re.sub(r"[-_.]+", "-", name.lower())  # noqa: E731
    versions = {normal(one.partition("==")[0]): one.partition("==")[2] for one, _ in locked}
    wanted = {normal(one.partition("==")[0]): one.partition("==")[2] for one in pinned}
    again = re.findall(r"uv pip compile .* requirements.lock", lock)[0]
    assert versions == wanted, f"run {again}"
    assert len(locked) == len(re.findall(r"^[\w.-]+==", lock, re.M))


def pythons_of(name: str) -> SpecifierSet:
    """Those that an installed package asks for; of one that is not installed here, all."""
    try:
        return SpecifierSet(metadata(name)["Requires-Python"] or "")
    except PackageNotFoundError:
        return SpecifierSet()


def test_pinned_versions_can_be_had_for_the_first_release_of_each_python_that_is_promised():
    named = [one.rpartition(" ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert PROJECT["requires-python"] == f">={named[0]}"
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    late = [(p, v) for p in pinned for v in named if f"{v}.0" not in pythons_of(p)]
    assert not late, "a system's Python may be the first of its line: Debian 12 has 3.11.2"
