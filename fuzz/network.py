"""Targets that read what servers answer: published folders, listings, pictures that are fetched."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
from fourm_data_prep.download import Address, DownloadConfig, Refused, _fetch_all
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fourm.data.remote import fetching
from fourm.data.remote.block_cache import BlockCache
from fourm.data.remote.folder import RemoteFolder
from fourm.data.remote.listing import read_listing
from fourm.data.remote.published import PUBLISHED_FILE
from fourm.data.remote.reading import RemoteReader
from fuzz.files import pictures
from fuzz.inputs import files_like, nested, texts, trees_like
from fuzz.target import Target

_CONTENT = bytes(range(25))
_BLOCK = 10
_SUMS = [zlib.crc32(_CONTENT[at : at + _BLOCK]) for at in range(0, len(_CONTENT), _BLOCK)]
_PUBLISHED = {
    "version": 1,
    "block_bytes": _BLOCK,
    "files": {
        "train/rgb/0.tar": {
            "size": len(_CONTENT),
            "crc32": b"".join(number.to_bytes(4) for number in _SUMS).hex(),
        },
        "empty": {"size": 0, "crc32": ""},
    },
}
_LISTED = {
    "tar": "0.tar",
    "size": 25,
    "files": [["a.txt", 512, 3], ["b.txt", 1536, 4]],
    "damage": "",
}
_CONFIG = DownloadConfig(timeout=2.0, retries=0, max_bytes=20_000)


def read_published(data: bytes, folder: Path) -> None:
    """A folder whose server answers so, and its files as far as they can be read."""

    def answer(url: str, start: int | None, stop: int | None) -> bytes:
        return (data if url.endswith(PUBLISHED_FILE) else _CONTENT)[start:stop]

    with patch.object(fetching, "_ask", answer):
        with patch.object(fetching, "ATTEMPTS", 1), patch.object(fetching, "PAUSE", 0):
            remote = RemoteFolder("http://host/data")
            reader = RemoteReader(BlockCache(folder / "cache", 10_000))
            for name in remote.names()[:3]:
                file = remote.file(name)
                reader.read(file, np.array([0]), np.array([min(file.size, 30)]))
                reader.cache.keep_whole(file)


def read_listed(data: bytes, folder: Path) -> None:
    """A listing of tars."""
    (folder / "members.jsonl").write_bytes(data)
    for tar in read_listing(folder / "members.jsonl", [("http://host/0.tar", 25)]):
        for member in tar.members():
            assert isinstance(member.name, str) and member.offset >= 0 and member.size >= 0


def fetch_pictures(answer: tuple[int, dict[str, str], bytes], folder: Path) -> None:
    """A download whose server answers so."""
    status, headers, body = answer

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers=headers, content=body)

    client = httpx.AsyncClient

    def made(**options: Any) -> httpx.AsyncClient:
        return client(**{**options, "transport": httpx.MockTransport(handle)})

    with patch.object(httpx, "AsyncClient", made):
        (found,) = asyncio.run(_fetch_all([Address("k", "http://host/a", "")], _CONFIG))
    assert isinstance(found, (Refused, tuple))


def _answers() -> SearchStrategy[Any]:
    printable = texts().filter(lambda text: text.isascii() and text.isprintable())
    names = st.sampled_from(
        ["location", "content-type", "content-length", "content-encoding", "set-cookie", "x"]
    )
    told = st.one_of(
        printable,
        st.sampled_from(
            ["http://host/a", "file:///etc/passwd", "//x", "http://[", "gzip", "br", "image/png"]
        ),
        st.sampled_from(["9" * 5000, "-1", "deflate", "http://host:99999/", "http://\u00ad.x/"]),
    ).filter(str.isascii)
    status = st.sampled_from([200, 200, 200, 301, 302, 307, 404, 429, 500, 204, 206])
    headers = st.dictionaries(names, told, max_size=3)
    return st.tuples(status, headers, files_like(pictures()))


def targets() -> Iterator[Target]:
    """All of this file."""

    def like(tree: Any) -> SearchStrategy[bytes]:
        as_bytes = trees_like([tree]).map(lambda t: json.dumps(t, default=repr).encode())
        return st.one_of(as_bytes, files_like([json.dumps(tree).encode(), nested().encode()]))

    yield Target(
        name="published", inputs=lambda: like(_PUBLISHED), run=read_published, takes_bytes=True
    )
    yield Target(name="listing", inputs=lambda: like(_LISTED), run=read_listed, takes_bytes=True)
    yield Target(name="answers", inputs=_answers, run=fetch_pictures, share=1)
