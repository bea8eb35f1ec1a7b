"""Real servers on this machine's loopback that training data is read from: HTTP that misbehaves on
demand, and S3 (moto).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from fourm.numbers.rng import CounterRNG


@dataclass
class Server:
    """A web server of a folder: what it was asked for, and how it misbehaves."""

    folder: Path
    url: str = ""
    ignores_ranges: bool = False
    broken_share: float = 0.0  # of answers: 503, cut short, or a closed connection in turn
    delay: float = 0.0  # seconds before each answer
    forbidden: bool = False
    served: list[tuple[str, int, int]] = field(default_factory=list)  # path, start, stop
    asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_bytes(self) -> int:
        return sum(stop - start for path, start, stop in self.served if "published" not in path)

    def paths(self) -> set[str]:
        return {path for path, _, _ in self.served}


def _handler(server: Server):
    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(server.folder), **kwargs)

        def log_message(self, *args):
            pass

        def do_GET(self):
            with server.lock:
                number = server.asked
                server.asked += 1
            time.sleep(server.delay)
            if server.forbidden:
                return self.send_error(403)
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                return self.send_error(404)
            size = path.stat().st_size
            start, stop, status = 0, size, 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked and not server.ignores_ranges:
                start, stop, status = int(asked[1]), min(int(asked[2]) + 1, size), 206
                if start >= size:
                    return self.send_error(416)
            broken = CounterRNG(0, "server").uniform(number) < server.broken_share
            if broken and number % 3 == 0:
                return self.send_error(503)
            if broken and number % 3 == 1:
                self.close_connection = True
                return None
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read(stop - start)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if broken:
                self.close_connection = True
                data = data[: len(data) // 2]
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)
            with server.lock:
                server.served.append((self.path, start, start + len(data)))
            return None

    return Handler


@contextlib.contextmanager
def http_server(folder: Path, port: int = 0, **how):
    """A web server of a folder, on any port that is free or on this one."""
    state = Server(folder, **how)
    httpd = ThreadingHTTPServer(("127.0.0.1", port), _handler(state))
    httpd.daemon_threads = True
    httpd.handle_error = lambda *_: None  # a client that was killed
    state.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@contextlib.contextmanager
def s3_server(monkeypatch, bucket: str, folder: Path):
    """An S3 server with a bucket that holds a folder's files; gives the bucket's address."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    s3fs.S3FileSystem.clear_instance_cache()  # which holds clients of other servers
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=bucket)
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())
        yield f"s3://{bucket}"
    finally:
        server.stop()
