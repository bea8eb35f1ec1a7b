"""What SECURITY.md promises of files and servers of others: refused by default, each by a test."""

import asyncio
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
from conftest import make_model
from fourm_data_prep import public_hosts
from fourm_data_prep.download import Address, DownloadConfig, DownloadStep, Refused, _fetch_all
from fourm_data_prep.public_hosts import NotPublic, PublicLoop, is_public, refused_as_private
from hostile_server import bomb, picture
from PIL import Image

from fourm.codecs import CodecSet
from fourm.config import read_yaml
from fourm.data import npy
from fourm.data.npy import read_npy, read_npz
from fourm.data.pictures import open_picture
from fourm.data.remote.fetching import fetch
from fourm.data.shards import DamageReport, read_shard
from fourm.errors import UserError
from fourm.foreign_code import refuse_code
from fourm.hub import find_model
from fourm.json_files import parse_json
from fourm.modalities import ModalitySet
from fourm.model import FourM
from fourm.model_files import read_description
from fourm.pipeline import AnyToAnyPipeline
from fourm.raw.boxes import Boxes
from fourm.raw.text import Text
from fourm.resources import demo_model_folder
from fourm.yaml_files import parse

ROOT = Path(__file__).parents[1]


# ---- nothing is unpickled ------------------------------------------------------------------------


def run_refusing_pickle(tmp_path, *command):
    """Run a program in which unpickling is an error, in all of its processes."""
    site, told = tmp_path / "site", tmp_path / "unpickled"
    site.mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("refusing_pickle.py"), site / "sitecustomize.py")
    path = [str(site), *(str(ROOT / name) for name in ("", "tokenizers", "data_prep", "tests"))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "FOURM_UNPICKLED": str(told),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    return done, told.read_text() if told.is_file() else ""


def test_the_watch_sees_an_unpickled_class(tmp_path):
    code = "import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.Path('a')))"
    done, told = run_refusing_pickle(tmp_path, "-c", code)
    assert done.returncode == 1 and "pathlib" in told


TRAINS = """
import sys
from pathlib import Path
from fourm.config import load
from fourm.training.pretrain import PretrainConfig, pretrain
from worlds import write_project
project = write_project(Path(sys.argv[1]), 24)
for steps in (2, 4):
    pretrain(load(PretrainConfig, project, [f"loop.steps={steps}", "loop.checkpoint_every=2"]))
"""


def test_nothing_is_unpickled_where_a_model_trains_resumes_and_samples(tmp_path):
    done, told = run_refusing_pickle(tmp_path, "-c", TRAINS, str(tmp_path / "project"))
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])
    words = ["-m", "fourm", "generate", "--caption", "a red cube", "--steps", "1", "depth", "boxes"]
    done, told = run_refusing_pickle(tmp_path, *words)
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])


@pytest.mark.slow
def test_nothing_is_unpickled_in_a_whole_project(tmp_path):
    """Rendered, tokenizers trained, tokenized, pretrained, evaluated, sampled."""
    words = ["-m", "fourm", "demo", "--size", "smoke", "--out", str(tmp_path / "demo")]
    done, told = run_refusing_pickle(tmp_path, *words)
    assert done.returncode == 0 and not told, (told, done.stderr[-2000:])


def test_arrays_of_objects_are_refused_unread(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="objects, which is never read"):
        read_npy(buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, emb=np.array([Payload()], dtype=object))
    with pytest.raises(UserError, match="objects, which is never read"):
        read_npz(buffer.getvalue(), ("emb",))
    assert not (tmp_path / "executed").exists()


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


# ---- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "pipe://cat", "ssh://host/a", "simplecache::file:///etc/passwd"]
)
def test_data_is_read_from_servers_alone_and_runs_nothing(url):
    pytest.importorskip("fsspec")
    with pytest.raises(UserError, match="nothing here reads"):
        fetch(url)


ADDRESSES = {
    "127.0.0.1": False,
    "10.1.2.3": False,
    "172.16.0.1": False,
    "192.168.0.1": False,
    "100.64.0.1": False,
    "169.254.169.254": False,
    "0.0.0.0": False,
    "224.0.0.1": False,
    "::1": False,
    "::": False,
    "fe80::1%eth0": False,
    "fd00::1": False,
    "ff02::1": False,
    "::ffff:127.0.0.1": False,
    "::ffff:10.0.0.1": False,
    "64:ff9b::7f00:1": False,
    "64:ff9b::a9fe:a9fe": False,
    "2002:7f00:1::": False,
    "8.8.8.8": True,
    "::ffff:8.8.8.8": True,
    "64:ff9b::808:808": True,
    "2606:4700::1": True,
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_of_private_networks_are_told_whatever_they_are_wrapped_in(address):
    assert is_public(address) is ADDRESSES[address]


class Redirects(BaseHTTPRequestHandler):
    """``/picture`` is one; ``/away`` leads to another address of this machine."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self):
        Redirects.asked.append(f"{self.headers['host'].partition(':')[0]}{self.path}")
        data = picture(0)
        self.send_response(302 if self.path == "/away" else 200)
        port = self.server.server_address[1]
        self.send_header("location", f"http://127.0.0.2:{port}/picture")
        self.send_header("content-type", "image/png")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    Redirects.asked.clear()
    server = ThreadingHTTPServer(("0.0.0.0", 0), Redirects)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def fetched(*urls, loop=PublicLoop):
    with asyncio.Runner(loop_factory=loop) as runner:
        config = DownloadConfig(timeout=5.0, retries=2, backoff=5.0)
        return runner.run(_fetch_all([Address("k", url, "") for url in urls], config))


def test_a_download_refuses_this_machine_by_number_and_by_name_and_asks_it_nothing(port):
    hosts = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1")
    for result in fetched(*(f"http://{host}:{port}/picture" for host in hosts)):
        assert isinstance(result, Refused), result
    assert isinstance(result, Refused) and not Redirects.asked
    named = fetched(f"http://localhost:{port}/picture")[0]
    assert re.fullmatch(r"\S+ is no public address: see --allow-private", str(named))


def test_a_download_believes_no_name_that_leads_to_a_private_address(port, monkeypatch):
    import socket

    true = socket.getaddrinfo
    told = lambda host, *rest, **more: true("127.0.0.1", *rest, **more)  # noqa: E731
    monkeypatch.setattr(socket, "getaddrinfo", told)
    (result,) = fetched(f"http://pictures.example:{port}/picture")
    assert "127.0.0.1 is no public address" in str(result) and not Redirects.asked


def test_a_redirect_is_looked_at_as_the_first_address_was(port, monkeypatch):
    monkeypatch.setattr(public_hosts, "is_public", lambda address: address != "127.0.0.2")
    (result,) = fetched(f"http://127.0.0.1:{port}/away")
    assert "127.0.0.2 is no public address" in str(result)
    assert Redirects.asked == ["127.0.0.1/away"]


def test_private_addresses_may_be_allowed_and_are_part_of_what_a_download_is(port, tmp_path):
    (result,) = fetched(f"http://127.0.0.1:{port}/away", loop=asyncio.SelectorEventLoop)
    assert result == ("png", picture(0))
    plain, allowed = (
        DownloadStep([], DownloadConfig(allow_private=allow), tmp_path).described()
        for allow in (False, True)
    )
    assert "allow_private" not in plain and allowed["allow_private"] is True


def test_a_refusal_is_found_behind_what_a_client_makes_of_it():
    group = ExceptionGroup("all failed", [OSError("x"), NotPublic("here")])
    error = RuntimeError("client")
    error.__cause__ = group
    assert str(refused_as_private(error)) == "here"
    assert refused_as_private(ValueError("x")) is None


# ---- models of others ----------------------------------------------------------------------------


def hub(monkeypatch, folder):
    """A hub that has one repository."""
    for module in ("fourm.hub", "fourm.codecs"):
        monkeypatch.setattr(f"{module}.snapshot_download", lambda name, **_: str(folder))


@pytest.fixture
def model_folder(modalities, tmp_path):
    make_model(modalities).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_of_the_hub_that_names_code_is_refused_and_opens_by_its_path(
    model_folder, tmp_path, monkeypatch
):
    (tmp_path / "payload.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
        "from fourm.sampling.schemes import MaskGIT as Scheme\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = {"rgb": {"scheme": {"type": "payload:Scheme"}}}
    (model_folder / "generation.yaml").write_text(yaml.safe_dump(settings))
    hub(monkeypatch, model_folder)
    by_name = lambda name: FourM._from_pretrained(model_id=name)  # noqa: E731
    for opened in (AnyToAnyPipeline.from_pretrained, by_name, find_model):
        with pytest.raises(UserError, match=r"names code, payload:Scheme, .* by its path"):
            opened("someone/model")
    assert not (tmp_path / "executed").exists()
    AnyToAnyPipeline.from_pretrained(model_folder)
    assert (tmp_path / "executed").exists()


def test_a_tokenizer_of_the_hub_that_names_code_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"quantizer": {"type": "payload:Config"}}')
    hub(monkeypatch, tmp_path)
    entry = {
        "kind": "grid",
        "raw": {"type": "image", "size": 16},
        "tokenizer": {"type": "autoencoder", "levels": [4], "patch_size": 4, "hub": "some/one"},
    }
    codecs = CodecSet(ModalitySet.from_mapping({"modalities": {"rgb": entry}}), tmp_path / "no")
    with pytest.raises(UserError, match="names code, payload:Config"):
        codecs["rgb"]


def test_what_this_release_writes_names_no_code(model_folder):
    assert refuse_code(model_folder) == model_folder
    assert refuse_code(demo_model_folder()) == demo_model_folder()


@pytest.mark.parametrize("num", [0, 1, 63, 65, 10**7])
def test_a_wrong_number_of_tokens_is_a_sentence_and_no_memory(num):
    described = read_description(demo_model_folder())
    tables = {key: described[key] for key in ("tokenizers", "modalities")}
    codec = CodecSet(ModalitySet.from_mapping(tables), demo_model_folder() / "tokenizers")["depth"]
    with pytest.raises(UserError, match=rf"depth has 64 tokens, these are {num} ids"):
        codec.decode([np.zeros(num, np.int64)])
    with pytest.raises(UserError, match="ids of depth are in 0..239"):
        codec.decode([np.full(64, 240)])


# ---- the page of promises ------------------------------------------------------------------------


def test_every_promise_of_the_security_page_has_a_test_that_exists():
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", text)
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
