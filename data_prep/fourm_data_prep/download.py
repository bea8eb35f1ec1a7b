"""Pictures from a list of addresses into shards, politely: CC12M's TSV, or any CSV, TSV, JSONL or
plain list.

    fourm download cc12m.tsv --out data/cc12m/originals

Each shard is a webdataset tar of original bytes (``<key>.jpg`` and the like) and captions
(``<key>.txt``), made by the same engine as every other step. An address that fails is tried again
where that can help (time-outs, 429, 5xx), never waits longer than its limits, and ends up in the
shard's manifest with its reason. At most a few requests go to one host at a time. Redirects are
followed a few times, bodies are cut off at a limit, and what is no readable picture is refused.
Addresses of this machine and of private networks are refused (``public_hosts``) unless asked for.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from fourm.data.pictures import open_picture
from fourm.data.shards import Damage, write_json_atomic, write_shard
from fourm.errors import UserError, listed
from fourm.files.json_files import parse_mapping
from fourm_data_prep.engine import Progress, run_step
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.public_hosts import PublicLoop, refused_as_private
from fourm_data_prep.shard_steps import Job, ShardResult, fingerprint
from fourm_data_prep.tables import CAPTION_COLUMNS

_URL_COLUMNS = ("url", "image_url", "link", "image")
_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


@dataclass(frozen=True, kw_only=True)
class DownloadConfig:
    """Limits of one shard's requests."""

    shard_size: int = 512
    timeout: float = 10.0  # seconds for each attempt as a whole
    retries: int = 2  # attempts after the first, where another one can help
    backoff: float = 0.5  # seconds before the first of them, doubled for each
    max_bytes: int = 20_000_000
    max_redirects: int = 5
    per_host: int = 4  # requests to one host at a time
    at_once: int = 64  # requests at a time
    user_agent: str = "fourm-data-prep"
    allow_private: bool = False  # addresses of this machine and of private networks


@dataclass(frozen=True)
class Address:
    """One picture to fetch."""

    key: str
    url: str
    caption: str


class Refused(Exception):
    """Why an address gave no picture; ``again`` says that another attempt may help."""

    def __init__(self, reason: str, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def read_addresses(path: Path) -> list[Address]:
    """Addresses with captions of a list. Raises UserError that says what the list lacks."""
    if not path.is_file():
        raise UserError(f"no file {path}")
    addresses, seen = [], set()
    for url, caption in _rows(path):
        url = url.strip()
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{path}: {url[:80]!r} is no http address")
        key = hashlib.sha256(url.encode()).hexdigest()[:16]
        if key not in seen:
            seen.add(key)
            addresses.append(Address(key, url, " ".join(caption.split())))
    if not addresses:
        raise UserError(f"{path} lists no addresses")
    return addresses


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", errors="replace") as stream, _csv_errors(path):
        if path.suffix == ".jsonl":
            for number, line in enumerate(stream, 1):
                row = {k.lower(): v for k, v in parse_mapping(line, f"{path}:{number}").items()}
                yield (
                    str(_column(row, _URL_COLUMNS, path)),
                    str(_column(row, CAPTION_COLUMNS, path)),
                )
            return
        first = stream.readline()
        stream.seek(0)
        separator = "\t" if "\t" in first else ","
        # no header: address, then caption (as CC12M)
        if first.lower().startswith(("http://", "https://")):
            for row in csv.reader(
                stream,
                delimiter=separator,
                quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
            ):
                if row:
                    yield row[0], row[1] if len(row) > 1 else ""
            return
        for row in csv.DictReader(stream, delimiter=separator):
            lowered = {k.strip().lower(): v or "" for k, v in row.items() if k is not None}
            yield _column(lowered, _URL_COLUMNS, path), _column(lowered, CAPTION_COLUMNS, path)


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except csv.Error as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _column(row: dict[str, Any], names: tuple[str, ...], path: Path) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise UserError(f"{path} needs a column {' or '.join(names)}; it has {listed(row)}")


class DownloadStep:
    """One shard of addresses -> one tar of pictures and captions."""

    name = "download"

    def __init__(self, addresses: list[Address], config: DownloadConfig, out: Path) -> None:
        self.addresses, self.config, self.out = addresses, config, out

    def described(self) -> dict[str, Any]:
        described = asdict(self.config)
        if not self.config.allow_private:  # as earlier releases, which did not know it
            del described["allow_private"]
        return described

    def jobs(self) -> list[Job]:
        size = self.config.shard_size
        parts = [self.addresses[i : i + size] for i in range(0, len(self.addresses), size)]
        return [
            Job("originals", n, fingerprint([asdict(a) for a in part]))
            for n, part in enumerate(parts)
        ]

    def run(self, job: Job) -> ShardResult:
        size = self.config.shard_size
        addresses = self.addresses[job.number * size : (job.number + 1) * size]
        loop = asyncio.SelectorEventLoop if self.config.allow_private else PublicLoop
        with asyncio.Runner(loop_factory=loop) as runner:
            results = runner.run(_fetch_all(addresses, self.config))
        damage, members = [], []
        for address, result in zip(addresses, results, strict=True):
            if isinstance(result, Refused):
                damage.append(Damage(address.url, address.key, str(result)))
            else:
                extension, data = result
                members += [
                    (address.key, extension, data),
                    (address.key, "txt", address.caption.encode()),
                ]
        path = self.out / f"{job.number:05d}.tar"
        write_shard(path, members)
        return ShardResult((path.name,), len(members) // 2, tuple(damage))


async def _fetch_all(
    addresses: list[Address], config: DownloadConfig
) -> list[tuple[str, bytes] | Refused]:
    hosts: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(config.per_host))
    everyone = asyncio.Semaphore(config.at_once)
    limits = httpx.Limits(max_connections=config.at_once)
    async with httpx.AsyncClient(
        follow_redirects=True,
        max_redirects=config.max_redirects,
        limits=limits,
        timeout=config.timeout,
        headers={"user-agent": config.user_agent},
        trust_env=False,
    ) as client:

        async def one(address: Address) -> tuple[str, bytes] | Refused:
            async with hosts[urlsplit(address.url).netloc], everyone:
                for attempt in range(config.retries + 1):
                    try:
                        data = await asyncio.wait_for(
                            _fetch(client, address.url, config), config.timeout
                        )
                        return _checked(data)
                    except TimeoutError:
                        failure = Refused(f"no answer within {config.timeout:g} s", again=True)
                    except Refused as refused:
                        failure = refused
                    except httpx.TooManyRedirects:
                        failure = Refused(f"more than {config.max_redirects} redirects")
                    except (httpx.HTTPError, httpx.InvalidURL, ValueError, UnicodeError) as error:
                        private = refused_as_private(error)
                        if private is not None:
                            return Refused(f"{private}: see --allow-private")
                        failure = Refused(
                            f"{type(error).__name__}: {error}"[:200],
                            again=isinstance(error, httpx.TransportError),
                        )
                    if not failure.again or attempt == config.retries:
                        return failure
                    jitter = zlib.crc32(address.key.encode()) / 2**32
                    await asyncio.sleep(config.backoff * 2**attempt * (0.5 + jitter))
            raise AssertionError

        return await asyncio.gather(*(one(a) for a in addresses))


async def _fetch(client: httpx.AsyncClient, url: str, config: DownloadConfig) -> bytes:
    async with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise Refused(
                f"HTTP {response.status_code}",
                again=response.status_code == 429 or response.status_code >= 500,
            )
        declared = response.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > config.max_bytes:
            raise Refused(f"{int(declared)} bytes are more than the {config.max_bytes} allowed")
        kind = response.headers.get("content-type", "")
        if kind.startswith(("text/", "application/json")):
            raise Refused(f"{kind.split(';')[0]} instead of a picture")
        parts, size = [], 0
        async for part in response.aiter_bytes():
            size += len(part)
            if size > config.max_bytes:
                raise Refused(f"more than the {config.max_bytes} bytes allowed")
            parts.append(part)
    return b"".join(parts)


def _checked(data: bytes) -> tuple[str, bytes]:
    """Extension and bytes of a readable picture. Raises Refused."""
    try:
        picture = open_picture(data)
    except ValueError as error:
        raise Refused(str(error)) from None
    if picture.format not in _FORMATS:
        raise Refused(f"format {picture.format} is not one of {', '.join(_FORMATS)}")
    return _FORMATS[picture.format], data


def download(
    path: Path, out: Path, config: DownloadConfig, engine: EngineConfig, max_failed: float = 1.0
) -> Progress:
    """Fetch a list; ``status.json`` in ``out`` sums up what failed and why."""
    step = DownloadStep(read_addresses(path), config, out)
    progress = run_step(step, engine, max_failed)
    reasons: dict[str, int] = defaultdict(int)
    for entry in progress.report.entries:
        reasons[entry.reason] += 1
    failed = [{"url": e.shard, "key": e.key, "reason": e.reason} for e in progress.report.entries]
    fetched = progress.report.num_seen - len(failed)
    table = {
        "addresses": progress.report.num_seen,
        "fetched": fetched,
        "failed": len(failed),
        "reasons": dict(sorted(reasons.items())),
    }
    write_json_atomic(out / "status.json", {**table, "failures": failed})
    return progress
