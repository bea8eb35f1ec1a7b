"""Bytes of a file on a server: asked for again where another attempt can help, else one sentence.

fsspec finds the client by the address (http, s3, gs ...). What its clients raise is of many kinds;
here it is told apart only by what a user can do about it.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any
from urllib.parse import urlsplit

from fourm.errors import UserError
from fourm.progress import OWN

_log = logging.getLogger(__name__)
ATTEMPTS = 6
PAUSE = 0.5  # seconds before the second attempt, doubled before each further one
_SCHEMES = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss")
TIMEOUT = 60.0  # seconds that one attempt may take
MOST_BYTES = 2**30  # of a file that is read whole: the index of some hundred terabytes
_MAY_PASS = (408, 425, 429)  # of the client's errors, those that another attempt can help
_CLIENTS = ("aiohttp", "aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")


def is_remote(address: str) -> bool:
    """True for an address such as ``s3://bucket/data``, False for a path."""
    return "://" in address


def fetch(url: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Bytes ``start`` to ``stop`` of a file, or all of it.

    No answer takes more memory than was asked for, or than ``MOST_BYTES``. Raises UserError where
    the file is not there, may not be read or is larger, or no attempt succeeds.
    """
    for attempt in range(ATTEMPTS):
        try:
            data = _ask(url, start, stop)
            wanted = len(data) if start is None or stop is None else stop - start
            if stop is None and len(data) > MOST_BYTES:
                raise UserError(
                    f"{url} is larger than the {MOST_BYTES:,} bytes that are read of it"
                )
            if len(data) > wanted:
                raise UserError(
                    f"the server of {url} sends whole files where parts are asked for: use one that"
                    " answers Range requests (nginx, Apache, S3 ...)"
                )
            if len(data) == wanted:
                return data
            problem = f"{len(data)} bytes came of {wanted}"
        except Exception as error:
            refusal = _refusal(error, url)
            if refusal is not None:
                raise refusal from None
            if not _is_of_client(error):
                raise
            problem = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        if attempt + 1 < ATTEMPTS:
            _log.info("%s: %s; trying again", url, problem, extra=OWN)
            time.sleep(PAUSE * 2**attempt)
    raise UserError(f"{url} could not be read in {ATTEMPTS} attempts: {problem}")


def _ask(url: str, start: int | None, stop: int | None) -> bytes:
    import fsspec
    from fsspec.asyn import sync

    # fsspec knows more: files of this machine, machines by ssh, archives in archives (::)
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        raise UserError(f"{url}: nothing here reads {scheme}://, but {', '.join(_SCHEMES)}")
    system, path = fsspec.core.url_to_fs(url)
    first, end = start or 0, MOST_BYTES + 1 if stop is None else stop
    if scheme.startswith("http"):
        asked = None if start is None else f"bytes={first}-{end - 1}"
        most = end - first + 1
        found: Any = sync(system.loop, _answer, system, path, asked, most, timeout=TIMEOUT)
        return found
    options: dict[str, Any] = {"timeout": TIMEOUT} if system.async_impl else {}
    return system.cat_file(path, start=first, end=end, **options)


async def _answer(system: Any, url: str, part: str | None, most: int) -> bytes:
    """What a web server answers, cut after ``most`` bytes: fsspec would keep all that it sends."""
    # ranges are of the file, not of what a proxy made of it
    given = system.kwargs.get("headers", {}) | ({} if part is None else {"Range": part})
    options = system.kwargs | {"headers": {"Accept-Encoding": "identity"} | given}
    session, data = await system.set_session(), bytearray()
    async with session.get(system.encode_url(url), **options) as response:
        response.raise_for_status()
        while len(data) < most and (piece := await response.content.read(most - len(data))):
            data += piece
    return bytes(data)


def _refusal(error: Exception, url: str) -> UserError | None:
    """The sentence for an error that another attempt cannot help; None for the others."""
    status, name = getattr(error, "status", None), type(error).__name__
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError) or status == 404:
        return UserError(f"{url} is not there (404)")
    if "Credentials" in name:
        return UserError(
            f"no credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or"
            " AWS_PROFILE), or FSSPEC_S3_ANON=true for a public bucket"
        )
    if isinstance(error, PermissionError) or status in (401, 403):
        return UserError(f"{url} may not be read (403): check credentials and the rights to it")
    if _knows_no_host(error):
        return UserError(f"{url}: no host is called {urlsplit(url).hostname}")
    if isinstance(error, ImportError):
        return UserError(f"{url} needs more than the core: pip install 'fourm[remote]'")
    if status is not None and 400 <= status < 500 and status not in _MAY_PASS:
        return UserError(f"{url} is refused by its server ({status})")
    return None


def _knows_no_host(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, socket.gaierror) or isinstance(
            getattr(error, "os_error", None), socket.gaierror
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_of_client(error: Exception) -> bool:
    """True for what a network does to a request, False for a fault of ours."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, TimeoutError)) or package in _CLIENTS
