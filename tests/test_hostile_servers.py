"""What SECURITY.md promises of servers of others: only public addresses are asked, whatever name
or redirect leads to them.
"""

import asyncio
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from fourm_data_prep import public_hosts
from fourm_data_prep.download import Address, DownloadConfig, DownloadStep, Refused, _fetch_all
from fourm_data_prep.public_hosts import NotPublic, PublicLoop, is_public, refused_as_private
from hostile_server import picture

from fourm.data.remote.fetching import fetch
from fourm.errors import UserError


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
