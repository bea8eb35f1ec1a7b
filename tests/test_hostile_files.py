"""What SECURITY.md promises of files of others: refused by default, at no cost of memory, and
nothing is run.
"""

import io
import json
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hostile_server import bomb
from PIL import Image

from fourm.config import read_yaml
from fourm.data import npy
from fourm.data.npy import read_npy, read_npz
from fourm.data.pictures import open_picture
from fourm.data.shards import DamageReport, read_shard
from fourm.errors import UserError
from fourm.files.json_files import parse_json
from fourm.files.yaml_files import parse
from fourm.raw.boxes import Boxes
from fourm.raw.text import Text

# ---- tars ----------------------------------------------------------------------------------------


def write_tar(path, *members, mode="w"):
    """Members (name, type, link or content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, kind, what in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            data = what if isinstance(what, bytes) else b""
            info.linkname = "" if isinstance(what, bytes) else what
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(path):
    report = DamageReport()
    return dict(read_shard(path, Text().read, ("txt",), report)), report


@pytest.mark.parametrize("name", ["../a.txt", "/tmp/a.txt", "a/../../b.txt", "..txt/../a.txt"])
def test_members_whose_names_leave_their_folder_are_skipped_and_listed(name, tmp_path):
    tar = write_tar(tmp_path / "in" / "0.tar", (name, b"0", b"bad"), ("good.txt", b"0", b"one"))
    before = sorted(tmp_path.rglob("*"))
    found, report = read(tar)
    assert found == {"good": "one"} and [e.reason for e in report.entries] == [
        "a name that is no key or leaves its folder"
    ]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6"])
def test_links_devices_and_pipes_in_a_tar_are_not_followed(kind, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    tar = write_tar(
        tmp_path / "0.tar", ("a.txt", kind, str(tmp_path / "secret.txt")), ("b.txt", b"0", b"two")
    )
    assert read(tar)[0] == {"b": "two"}


def test_a_folder_that_is_called_as_a_command_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path("pipe:touch executed;", "train", "text")
    write_tar(place / "0.tar", ("a.txt", b"0", b"one"))
    assert read(place / "0.tar")[0] == {"a": "one"}
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar_is_no_shard_so_that_it_cannot_be_a_bomb(mode, tmp_path):
    tar = write_tar(tmp_path / "0.tar", ("a.txt", b"0", bytes(10**7)), mode=mode)
    found, report = read(tar)
    assert not found and "a compressed tar has no addresses" in report.entries[0].reason


def test_a_member_larger_than_any_sample_is_refused_before_it_is_read(tmp_path):
    """A sparse file: terabytes on no disk."""
    header = tarfile.TarInfo("a.txt")
    header.size = 1 << 40
    path = tmp_path / "0.tar"
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    os.truncate(path, (1 << 40) + 1024)
    found, report = read(path)
    assert not found and "more than a sample can hold" in report.entries[0].reason


# ---- pictures and arrays -------------------------------------------------------------------------


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded():
    with pytest.raises(UserError, match=r"exceeds limit|too large"):
        open_picture(bomb())


def test_postscript_is_no_picture_so_that_ghostscript_is_never_started(tmp_path, monkeypatch):
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "EPS")
    with pytest.raises(UserError, match="no readable picture"):
        open_picture(buffer.getvalue())
    assert not (tmp_path / "executed").exists()


def test_an_array_that_announces_more_than_it_has_takes_no_memory():
    header = b"\x93NUMPY\x01\x00" + (70).to_bytes(2, "little")
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}"
    with pytest.raises(UserError, match="no readable numpy array"):
        read_npy(header + text.ljust(69) + b"\n" + bytes(80))


def test_a_zip_bomb_is_cut_off(monkeypatch):
    monkeypatch.setattr(npy, "MAX_BYTES", 1 << 20)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        array = io.BytesIO()
        np.save(array, np.zeros(1 << 20))
        out.writestr("emb.npy", array.getvalue())
    assert len(buffer.getvalue()) < 20_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="no readable archive"):
        read_npz(buffer.getvalue(), ("emb",))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# ---- YAML and JSON -------------------------------------------------------------------------------

TAGS = (
    "a: !!python/object/apply:os.system [touch executed]",
    "a: !!python/object/new:subprocess.Popen [[touch, executed]]",
    "a: !!python/name:os.system",
    "a: !!python/module:os",
)


@pytest.mark.parametrize("text", TAGS)
def test_tags_of_python_are_refused(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="could not determine a constructor"):
        parse(text, "f")
    assert not (tmp_path / "executed").exists()


def laughs(reference: str) -> str:
    """Each line names the one before nine times."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(20):
        nine = ", ".join([f"*a{i}"] * 9)
        lines.append(f"a{i + 1}: &a{i + 1} " + reference.format(nine))
    return "\n".join(lines)


@pytest.mark.parametrize("reference", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_that_mean_more_than_memory_holds_are_refused(reference, tmp_path):
    (tmp_path / "f").write_text(laughs(reference))
    with pytest.raises(UserError, match=r"aliases stand for more than 1,000,000 values"):
        read_yaml(tmp_path / "f")


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 5000, "a: " + "{b: " * 3000])
def test_texts_that_hold_themselves_or_are_nested_without_end_are_refused(text):
    with pytest.raises(UserError, match=r"^f"):
        parse(text, "f")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "1" * 100_000, "[1", '{"a": 1e', "\ud800"]
)
def test_json_that_is_nested_or_huge_without_end_is_refused(text):
    data = text.encode("utf-8", "surrogatepass")
    with pytest.raises(UserError, match="f is not valid JSON"):
        parse_json(data, "f")


def test_numbers_beyond_any_float_are_refused_where_they_are_used():
    data = json.dumps([{"box": [0, 0, 10**400, 1], "label": "x"}]).encode()
    with pytest.raises(UserError, match="must be a number"):
        Boxes().read(data, "json")
