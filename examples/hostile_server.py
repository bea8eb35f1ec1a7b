"""A web server on this machine that serves pictures and fails in every way a web server can.

For tests and for `crawl.py`.
"""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
from PIL import Image

# what an address is called -> part of the reason that a download must give for it
FAILURES = {
    "404": "HTTP 404",
    "500": "HTTP 500",
    "hang": "no answer within",
    "slow": "no answer within",
    "truncated": "Protocol",
    "html": "text/html instead of a picture",
    "loop": "redirects",
    "huge": "more than the",
    "hugechunks": "more than the",
    "bomb": "exceeds limit",
    "noise": "no readable picture",
    "reset": "Protocol",
    "svg": "no readable picture",
}


def picture(seed: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (24, 30, 3)).astype(np.uint8)
    ).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A small file that claims to be 30,000 pixels wide and high."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


class Handler(BaseHTTPRequestHandler):
    """``/<what>/<number>``: ``good`` pictures by number, ``flaky`` ones at the second attempt,
    ``moved`` ones elsewhere, or a failure.
    """

    pictures: ClassVar[list[bytes]] = []  # served by number; random ones if empty
    requests: ClassVar[Counter] = Counter()
    active = most = 0
    lock = threading.Lock()

    def do_GET(self):
        with Handler.lock:
            Handler.requests[self.path] += 1
            Handler.active += 1
            Handler.most = max(Handler.most, Handler.active)
        try:
            self.answer(self.path.strip("/").split("/")[0])
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with Handler.lock:
                Handler.active -= 1

    def send(self, status, kind, body=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("content-type", kind)
        if length != -1:
            self.send_header("content-length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def answer(self, what):
        if what in ("404", "500"):
            self.send(int(what), "text/plain")
        elif what == "hang":
            time.sleep(2.5)
        elif what == "slow":
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
        elif what == "truncated":
            self.send(200, "image/png", picture(1)[:200], length=len(picture(1)))
        elif what == "html":
            self.send(200, "text/html; charset=utf-8", b"<h1>Sorry</h1>")
        elif what == "loop":
            self.send(302, "text/plain", location="/loop/again")
        elif what == "huge":
            self.send(200, "image/png", b"", length=30_000_000)
        elif what == "hugechunks":
            self.send(200, "image/png", b"y" * 30_000_000, length=-1)
        elif what == "bomb":
            self.send(200, "image/png", bomb())
        elif what == "noise":
            self.send(200, "image/jpeg", b"\xff\xd8not a picture")
        elif what == "svg":
            self.send(200, "image/svg+xml", b"<svg/>")
        elif what == "reset":
            self.connection.close()
        elif what == "flaky" and Handler.requests[self.path] == 1:
            self.send(503, "text/plain")
        elif what == "moved":
            self.send(301, "text/plain", location="/good/1000")
        else:
            number = int(self.path.rsplit("/", 1)[1])
            held = Handler.pictures
            self.send(200, "image/png", held[number % len(held)] if held else picture(number))

    def log_message(self, *_):
        pass


def serve() -> ThreadingHTTPServer:
    """Start on a free port of this machine, in a thread."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
