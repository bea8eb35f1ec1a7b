"""Targets that read bytes: pictures, arrays, sounds, tars, tables, safetensors."""

from __future__ import annotations

import io
import tarfile
import wave
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fourm_data_prep.download import read_addresses
from fourm_data_prep.tables import read_lines, read_table
from fourm_data_prep.tar_pictures import _names_and_texts
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image
from safetensors.numpy import save

from fourm.data.crops import Crop
from fourm.data.npy import read_npy
from fourm.data.picture_parts import read_part
from fourm.data.shards import DamageReport, read_shard
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.files.weights import WeightFiles
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.audio import Audio, write_wav
from fourm.raw.depth import Depth
from fourm.raw.image import Image as ImageType
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fuzz.inputs import EDGES, files_like, texts
from fuzz.target import Target

_KINDS = (
    "PNG",
    "JPEG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    "PPM",
    "ICO",
    "TGA",
    "JPEG2000",
    "PCX",
    "SGI",
)
_MODES = ("RGB", "L", "RGBA", "CMYK", "I;16", "P", "1", "LA")
_SIDE = 12
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@cache
def pictures() -> list[bytes]:
    """Small valid pictures of every kind and mode, animated ones, and what Pillow would run."""
    rng = np.random.default_rng(0)
    plain = Image.fromarray(rng.integers(0, 255, (_SIDE, _SIDE + 3, 3)).astype(np.uint8))
    found = [POSTSCRIPT]
    for kind in _KINDS:
        for mode in _MODES:
            buffer = io.BytesIO()
            try:
                plain.convert(mode).save(buffer, kind)
            except (OSError, KeyError, ValueError):
                continue  # of the modes a kind has some
            found.append(buffer.getvalue())
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = 6
        more = [plain.rotate(90), plain.rotate(180)]
        plain.save(buffer, kind, save_all=True, append_images=more, exif=exif.tobytes())
        found.append(buffer.getvalue())
    return found


def read_picture(data: bytes, folder: Path) -> None:
    """A picture as all of its readers read it."""
    for raw in (ImageType(size=8), Depth(size=8), Normal(size=8), Labels(size=8, classes=("a",))):
        _refused(raw, data, "png")
    read_part(data, 8, None)
    read_part(data, 8, Crop(0.1, 0.2, 0.5, True))


def _refused(raw: Raw, data: bytes, extension: str) -> None:
    """Read by a type that need not read it."""
    try:
        raw.read(data, extension)
    except UserError as error:
        assert "\n" not in str(error)


@cache
def arrays() -> list[bytes]:
    """Valid arrays, archives of them, and one of objects."""
    found = []
    for array in (
        np.zeros((8, 8), np.float32),
        np.zeros((2, 3), ">f2"),
        np.zeros((0, 3), np.int64),
        np.asfortranarray(np.ones((3, 5))),
        np.array(3.5),
        np.array(["a", "bc"]),
        np.array([(1, 2.0)], [("x", "i4"), ("y", "f8")]),
        np.zeros((8, 8), "M8[s]"),
        np.zeros((8, 8), complex),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        found.append(buffer.getvalue())
    for compressed in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        compressed(buffer, emb=np.ones((4, 3), np.float32), mask_valid=np.ones(4))
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return [*found, buffer.getvalue()]


def read_array(data: bytes, folder: Path) -> None:
    """An array as all of its readers read it."""
    for raw in (
        Array(size=8),
        Depth(size=8),
        Normal(size=8),
        Labels(size=8, classes=("a", "b")),
        Vectors(channels=3),
    ):
        _refused(raw, data, "npy")
    _refused(Vectors(channels=3), data, "npz")
    assert isinstance(read_npy(data), np.ndarray)


@cache
def sounds() -> list[bytes]:
    """Valid wav files, one of each width."""
    found = [write_wav(np.linspace(-1, 1, 50), 8000)]
    for width in (1, 2, 3, 4):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as out:
            out.setparams((2, width, 16000, 0, "NONE", ""))
            out.writeframes(bytes(range(48)))
        found.append(buffer.getvalue())
    return found


@cache
def tars() -> list[bytes]:
    """Valid tars of every format, packed ones too."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for mode in ("w", "w:gz", "w:bz2", "w:xz"):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode=mode, format=form) as tar:  # type: ignore[call-overload]
                for name, data in (("a.txt", b"one"), ("b" * 90 + "/c.txt", b"two"), ("d", b"")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    info.pax_headers = {"comment": "x"} if form == tarfile.PAX_FORMAT else {}
                    tar.addfile(info, io.BytesIO(data))
            found.append(buffer.getvalue())
    return found


@st.composite
def odd_tars(draw: Callable[..., Any]) -> bytes:
    """Tars whose headers are whole and say what they should not."""
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    names = st.one_of(
        texts().map(lambda text: f"{text}.txt"),
        st.sampled_from(["../a.txt", "/tmp/a.txt", "./a.txt", "a/../b.txt", ".txt", "a" * 300]),
    )
    out = b""
    for _ in range(draw(st.integers(1, 4))):
        info = tarfile.TarInfo(draw(names).replace("\0", ""))
        info.type = bytes(
            [draw(st.one_of(st.sampled_from(b"01234567xgLKS\0"), st.integers(0, 255)))]
        )
        info.linkname = draw(st.sampled_from(["", "/etc/passwd", "../..", "a.txt"]))
        info.size = draw(
            st.one_of(st.integers(0, 1500), st.sampled_from([2**33, *map(abs, EDGES)]))
        )
        if form == tarfile.PAX_FORMAT:
            key = st.sampled_from(
                ["size", "path", "GNU.sparse.map", "GNU.sparse.size", "hdrcharset"]
            )
            text = st.one_of(texts(), st.sampled_from(["-512", "-1024", "1e9", "99999999999"]))
            info.pax_headers = draw(st.dictionaries(key, text.map(_storable), max_size=3))
        try:
            header = info.tobuf(form, errors="surrogateescape")
        except ValueError:  # what a format cannot say
            continue
        if draw(st.booleans()):  # a size as text that is none, with its checksum
            header = _with_size(
                header, draw(st.sampled_from([b"-0000001000", b"-7", b"0x10", b"8"]))
            )
        out += header + draw(
            st.sampled_from([b"", b"a" * 512, b"13 size=-5120\n".ljust(512, b"\0")])
        )
    return out + b"\0" * draw(st.sampled_from([0, 1, 512, 1024]))


def _storable(text: str) -> str:
    return text.encode("utf-8", "ignore").decode()


def _with_size(header: bytes, size: bytes) -> bytes:
    """The last header with another size field and the checksum that goes with it."""
    before, last = header[:-512], bytearray(header[-512:])
    last[124:136] = size.ljust(12, b"\0")
    last[148:156] = b" " * 8
    last[148:156] = b"%06o\0 " % sum(last)
    return before + bytes(last)


def read_tar(data: bytes, folder: Path) -> None:
    """A tar as the reader of shards, of addresses and of an import's names read it."""
    path = folder / "00000.tar"
    path.write_bytes(data)
    report = DamageReport()
    found = read_shard(path, Text().read, ("txt",), report)
    keys = [key for key, _ in found]
    assert not any(key.startswith("/") or ".." in key.split("/") for key in keys)
    _names_and_texts(path)
    for member in members_of(path):
        assert member.size >= 0 and member.offset > 0


@cache
def tables() -> list[bytes]:
    """Valid tables of every kind of text."""
    return [
        b'url,caption,id\nhttp://x/1,one,1\n"http://x/2","two, 2",2\n',
        b"http://x/1\tone\nhttp://x/2\ttwo\n",
        b'file_name\tcaption\na.png\tone\nb.png\t"two"\n',
        b'{"url": "http://x/1", "caption": "one", "file": "a.png"}\n{"url": "http://x/2"}\n',
        b"\xef\xbb\xbffile,caption\na.png,\xff\xfe\n",
    ]


@cache
def parquets() -> list[bytes]:
    """A valid parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    columns = {"file": ["a.png", "b.png"], "caption": ["one", None], "n": [1.5, 2.5]}
    parquet.write_table(pa.table(columns), buffer)
    return [buffer.getvalue()]


def read_as_table(data: bytes, folder: Path) -> None:
    """A table under every name that says what it is."""
    for suffix in (".csv", ".tsv", ".jsonl"):
        path = folder / f"t{suffix}"
        path.write_bytes(data)
        for read in (read_lines, read_table, read_addresses):
            try:
                read(path)
            except UserError as error:
                assert "\n" not in str(error)


def read_parquet(data: bytes, folder: Path) -> None:
    """A parquet file."""
    path = folder / "t.parquet"
    path.write_bytes(data)
    read_table(path)


@cache
def weights() -> list[bytes]:
    """Valid safetensors files: plain, a part of several."""
    tensors = {"a": np.zeros((4, 2), np.float32), "b": np.array(1.0, np.float16)}
    return [save(tensors), save(tensors, {"rows": '{"a": [0, 8]}'}), save({})]


def read_weights(data: bytes, folder: Path) -> None:
    """A safetensors file alone, and as the first of two parts."""
    for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / name).write_bytes(data)
    for path in (folder, folder / name):
        try:
            files = WeightFiles.open(path)
            for tensor in files:
                files.read(tensor)
        except UserError as error:
            assert "\n" not in str(error)


def read_index(data: bytes, folder: Path) -> None:
    """The index of a model in several files."""
    (folder / "model.safetensors.index.json").write_bytes(data)
    (folder / "a.safetensors").write_bytes(weights()[0])
    WeightFiles.open(folder)


def _of(
    name: str, seeds: Callable[[], list[bytes]], run: Callable[[bytes, Path], object], **more: Any
) -> Target:
    def inputs() -> SearchStrategy[bytes]:
        return files_like(seeds())

    return Target(name=name, inputs=inputs, run=run, takes_bytes=True, seeds=seeds, **more)


def targets() -> Iterator[Target]:
    """All of this file."""
    yield _of("pictures", pictures, read_picture, share=2)
    yield _of("arrays", arrays, read_array, share=6)
    yield _of("sounds", sounds, lambda data, _: Audio(rate=16000).read(data, "wav"), share=8)
    yield _of("tars", tars, read_tar, share=1.5)
    yield Target(name="odd-tars", inputs=odd_tars, run=read_tar, share=1)
    yield _of("tables", tables, read_as_table, share=1)
    yield _of("parquet", parquets, read_parquet, share=0.5)
    yield _of("safetensors", weights, read_weights, share=4)
    yield _of("safetensors-index", lambda: [b'{"weight_map": {"a": "a.safetensors"}}'], read_index)
