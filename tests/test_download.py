"""Fetching from a server that fails in every way: each failure has its reason, nothing hangs, a
rerun asks for nothing again.
"""

import json
import time
from collections import Counter

import pytest
from fourm_data_prep.download import DownloadConfig, download, read_addresses
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.importing import import_pictures
from hostile_server import FAILURES, Handler, picture, serve

from fourm.cli import main
from fourm.data.shards import DamageReport, read_shard

GOOD = 40
CONFIG = DownloadConfig(
    allow_private=True,
    timeout=1.0,
    retries=1,
    backoff=0.05,
    max_bytes=400_000,
    shard_size=20,
    per_host=8,
)


@pytest.fixture
def server():
    Handler.requests, Handler.active, Handler.most = Counter(), 0, 0
    running = serve()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


def write_list(path, server):
    lines = [f"{server}/good/{i}\tpicture number {i}" for i in range(GOOD)]
    lines += [f"{server}/{what}/0\tno picture" for what in FAILURES]
    lines += [
        f"{server}/flaky/7\tat the second attempt",
        f"{server}/moved/8\televewhere",
        f"{server}/good/0\tsaid twice",
    ]
    lines.append("http://127.0.0.1:9/nobody\tno server")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_failure_has_its_reason_and_nothing_hangs(server, tmp_path):
    started = time.monotonic()
    addresses = write_list(tmp_path / "list.tsv", server)
    download(addresses, tmp_path / "out", CONFIG, EngineConfig(workers=1))
    assert time.monotonic() - started < 30
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert status["addresses"] == GOOD + len(FAILURES) + 3 and status["fetched"] == GOOD + 2
    reasons = {entry["url"].split("/")[3]: entry["reason"] for entry in status["failures"]}
    for what, reason in FAILURES.items():
        assert reason in reasons[what], (what, reasons[what])
    assert "Connect" in reasons["nobody"]
    # what can help is tried again
    assert Handler.requests["/500/0"] == 2 and Handler.requests["/404/0"] == 1
    assert Handler.most <= CONFIG.per_host
    fetched = {}
    for tar in sorted((tmp_path / "out").glob("*.tar")):
        fetched |= dict(read_shard(tar, lambda data, _: data, ("png",), DamageReport()))
    assert len(fetched) == GOOD + 2 and picture(3) in fetched.values()

    asked = sum(Handler.requests.values())
    download(addresses, tmp_path / "out", CONFIG, EngineConfig(workers=1))
    assert sum(Handler.requests.values()) == asked


def test_what_was_fetched_imports_and_is_shown_on_a_page(server, tmp_path, capsys):
    main(
        [
            "download",
            str(write_list(tmp_path / "list.tsv", server)),
            "--out",
            str(tmp_path / "tars"),
            "--timeout",
            "1",
            "--allow-private",
            "--retries",
            "0",
            "--max-mb",
            "0.4",
            "--workers",
            "1",
        ]
    )
    assert "of 56 fetched" in capsys.readouterr().out
    config = tmp_path / "m.yaml"
    config.write_text(
        "modalities:\n  rgb: {kind: grid, raw: {type: image, size: 16}, vocab_size: 8, grid: [2,"
        " 2]}\n"
        "  edges: {kind: grid, raw: {type: array, size: 16, channels: 1}, labeller: edges,"
        " vocab_size: 8, grid: [2, 2]}\n"
        "  caption: {kind: sequence, raw: {type: text}, vocab_size: 300, max_tokens: 20}\n"
    )
    import_pictures(tmp_path / "tars", config, tmp_path / "raw", engine=EngineConfig(workers=1))
    main(["inspect", str(tmp_path / "raw"), "--config", str(config)])
    out = capsys.readouterr().out
    assert "train  rgb" in out and "0 damaged" in out
    page = (tmp_path / "raw" / "inspect.html").read_text()
    assert "picture number" in page and "data:image/" in page and "manifests" in page


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "link_url,caption\nhttp://x/1,a\n", "needs a column url"),
        ("a.tsv", "ftp://x/1\ta\nftp://x/2\tb\n", "needs a column url"),
        ("a.csv", "url,caption\nnothing,a\n", "is no http address"),
        ("a.txt", "", "lists no addresses"),
        ("b.txt", None, "no file"),
    ],
)
def test_a_wrong_list_is_one_clear_error(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_addresses(tmp_path / name)


def test_lists_of_all_kinds_are_read(tmp_path):
    kinds = {
        "plain.txt": "http://x/1\nhttp://x/2\n",
        "cc12m.tsv": 'http://x/1\tone\nhttp://x/2\ttwo "quoted\n',
        "h.csv": 'caption,url\none,http://x/1\n"two, two",http://x/2\n',
        "j.jsonl": json.dumps({"url": "http://x/1", "text": "one"})
        + "\n"
        + json.dumps({"URL": "http://x/2", "TEXT": "two"})
        + "\n",
    }
    for name, text in kinds.items():
        (tmp_path / name).write_text(text)
        found = read_addresses(tmp_path / name)
        assert [a.url for a in found] == ["http://x/1", "http://x/2"]
        if name != "plain.txt":
            assert found[0].caption == "one"
