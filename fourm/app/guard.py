"""What stands before gradio: requests that are too large, too many or for files are refused here.

Gradio serves any file below its folders, relays addresses of others (``/file=http://...``,
``/proxy=...``) and takes bodies of any length; of that the page needs nothing but what visitors
have uploaded and what was made for them, all of which lies in one folder of its own.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from fourm.app.limits import LIMITS, Limits

_MINUTE = 60.0
_MOST_ADDRESSES = 10_000  # whose requests are remembered
_MULTIPART = 10_000  # bytes that an upload has around its file
# the page brings all it needs; gradio builds templates by Function()
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:;"
    " style-src 'self' 'unsafe-inline'; font-src 'self' data:; connect-src 'self' data: blob:;"
    " script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'self' blob:;"
    " object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
GONE = (
    "That download is not kept any more: results stay for an hour, or until there is no more room"
    " for them. What is made from now on can be downloaded."
)
_CLOSED = ("proxy=", "monitoring", "vibe-edit", "dev/reload", "process_recording", "deep_link")


@dataclass
class Rate:
    """At most so many events a minute of each key."""

    most: int
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, deque[float]] = field(default_factory=dict)

    def admits(self, key: str) -> bool:
        """True and counted, or False."""
        now = self.clock()
        if len(self._seen) > _MOST_ADDRESSES:
            self._seen = {k: times for k, times in self._seen.items() if now - times[-1] < _MINUTE}
        times = self._seen.setdefault(key, deque())
        while times and now - times[0] >= _MINUTE:
            times.popleft()
        if len(times) >= self.most:
            return False
        times.append(now)
        return True


class Guard:
    """ASGI middleware: an application that answers as ``app`` does where it may."""

    def __init__(
        self, app: Any, files: Path, limits: Limits = LIMITS, hosts: tuple[str, ...] = ()
    ) -> None:
        """``files``: the folder that may be served from; ``hosts``: the names that the page may be
        called by, so that no other page is led here by a name of its own; empty = any.
        """
        self.app, self.files, self.limits, self.hosts = app, files.resolve(), limits, hosts
        self.rate = Rate(limits.posts_a_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            status, sentence = refusal
            await PlainTextResponse(sentence, status)(scope, receive, send)
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        most = self._most_bytes(scope)
        await self.app(scope, _bounded(receive, most), with_policy)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        path, headers = unquote(scope["path"]), Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and _name_of(host) not in self.hosts:
            return 403, "This page is for this machine alone."
        # pages of others may send requests here, but not read the answers: refuse what acts
        if urlsplit(headers.get("origin", "")).netloc not in ("", host):
            return 403, "Another page cannot use this one."
        if any(part in path for part in _CLOSED):
            return 404, "There is nothing here."
        for marker in ("/file=", "/file/"):
            name = path.partition(marker)[2]
            if marker in path and not self._is_ours(name):
                return 403, "This page serves no such file."
            if marker in path and not Path(name).is_file():
                return 410, GONE
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            client = scope["client"][0] if scope.get("client") else ""
            if not self.rate.admits(client):
                return 429, "Too many requests: wait a minute."
            length = headers.get("content-length", "0")
            if not length.isdecimal() or int(length) > self._most_bytes(scope):
                mega = self._most_bytes(scope) // 1_000_000
                return 413, f"That is too large: {mega} MB are the most."
            if path.endswith("/upload") and self._kept() > self.limits.kept_bytes:
                return 507, "There is no room for more files now: try again in an hour."
        return None

    def _most_bytes(self, scope: Any) -> int:
        is_upload = scope["path"].rstrip("/").endswith("/upload")
        return self.limits.upload_bytes + _MULTIPART if is_upload else self.limits.body_bytes

    def _is_ours(self, name: str) -> bool:
        try:
            path = Path(name).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return Path(name).is_absolute() and path.is_relative_to(self.files)

    def _kept(self) -> int:
        return sum(path.stat().st_size for path in self.files.rglob("*") if path.is_file())


def _name_of(host: str) -> str:
    """A host without its port."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _bounded(receive: Any, most: int) -> Any:
    """``receive`` that ends where a body without a stated length goes on for too long."""
    read = 0

    async def limited() -> Any:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            return {"type": "http.disconnect"}
        return message

    return limited
