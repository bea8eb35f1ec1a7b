"""A hub on this machine's loopback: as much of its API as ``huggingface_hub`` calls to make a
repository, commit files to it and fetch them. Small files come in the commit, large ones by LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


@dataclass
class Hub:
    """Repositories by id, each its files."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by hash
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)


def _handler(hub: Hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, data: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def tell(self, value, status: int = 200) -> None:
            self.answer(json.dumps(value).encode(), status, Content_Type="application/json")

        @property
        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def do_POST(self):
            hub.asked.append(f"POST {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            data, parts = self.body, self.path.split("/")
            if self.path == "/api/repos/create":
                asked = json.loads(data)
                name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
                is_new = name not in hub.repositories
                hub.repositories.setdefault(name, {})
                return self.tell({"url": f"{hub.url}/{name}", "id": name}, 200 if is_new else 409)
            if self.path == "/api/validate-yaml":
                return self.tell({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(data)["files"]
                modes = [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith("safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for f in files
                ]
                return self.tell({"files": modes})
            if self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                    for o in json.loads(data)["objects"]
                ]
                return self.tell({"transfer": "basic", "objects": objects})
            if "/commit/" in self.path:
                name = "/".join(parts[3:5])
                for line in map(json.loads, data.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        content = base64.b64decode(value["content"])
                        hub.repositories[name][value["path"]] = content
                    elif line["key"] == "lfsFile":
                        hub.repositories[name][value["path"]] = hub.large[value["oid"]]
                url = f"{hub.url}/{name}/commit/{COMMIT}"
                return self.tell({"commitUrl": url, "commitOid": COMMIT, "success": True})
            self.tell({"error": "unknown"}, 404)

        def do_PUT(self):
            data = self.body
            oid = self.path.rpartition("/")[2]
            assert hashlib.sha256(data).hexdigest() == oid
            hub.large[oid] = data
            self.answer(b"")

        def do_GET(self):
            hub.asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            parts = path.strip("/").split("/")
            name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
            files = hub.repositories.get(name)
            if files is None:
                return self.answer(b"{}", 404, X_Error_Code="RepoNotFound")
            if parts[0] == "api" and "tree" in parts:
                return self.tell(
                    [
                        {"type": "file", "path": p, "size": len(d), "oid": _oid(d)}
                        for p, d in files.items()
                    ]
                )
            if parts[0] == "api":
                siblings = [{"rfilename": p, "size": len(d)} for p, d in files.items()]
                return self.tell({"id": name, "sha": COMMIT, "siblings": siblings, "tags": []})
            data = files["/".join(parts[4:])]
            self.answer(data, ETag=f'"{_oid(data)}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

    return Handler


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def served() -> Iterator[Hub]:
    """A hub that runs until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
