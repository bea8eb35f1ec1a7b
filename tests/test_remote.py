"""Promises about data that is read over a network, kept against real servers on the loopback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tarfile
import threading
import time

import numpy as np
import pytest
from remote_servers import http_server, s3_server

from fourm.cli import main
from fourm.data.remote import fetching
from fourm.data.remote.block_cache import BlockCache
from fourm.data.remote.folder import RemoteFolder
from fourm.data.remote.members import RemoteMembers
from fourm.data.remote.published import PUBLISHED_FILE, publish
from fourm.data.remote.reading import RemoteReader
from fourm.data.shards import write_shard
from fourm.errors import UserError
from fourm.numbers.rng import CounterRNG

BLOCK = 1000
pytest.importorskip("aiohttp")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.005)


@pytest.fixture
def folder(tmp_path):
    """Two published files of random bytes."""
    root = tmp_path / "data"
    root.mkdir()
    for i, size in enumerate((50_500, 7 * BLOCK)):
        values = CounterRNG(i, "content").integers(0, 255, np.arange(size)).astype(np.uint8)
        (root / f"{i}.bin").write_bytes(values.tobytes())
    publish(root, BLOCK)
    return root


def reader(tmp_path, max_bytes=10**6):
    return RemoteReader(BlockCache(tmp_path / "cache", max_bytes))


def ranges(seed, size, num):
    """Random ranges of a file: some empty, some over several blocks."""
    rng = CounterRNG(seed, "ranges")
    starts = rng.integers(0, size - 1, np.arange(num), 0)
    lengths = rng.integers(0, 3 * BLOCK, np.arange(num), 1)
    return starts, np.minimum(lengths, size - starts)


def check_equal(made, remote, folder, name, seed=0, num=40):
    """Ranges of a file through the cache are those of the file on the disk."""
    whole = np.fromfile(folder / name, np.uint8)
    starts, sizes = ranges(seed, len(whole), num)
    wanted = [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    np.testing.assert_array_equal(
        made.read(remote.file(name), starts, sizes), np.concatenate(wanted)
    )


def blocks_on_disk(path):
    """Sizes of all blocks, whole or being written, by path."""
    found = {}
    for root, _, names in os.walk(path / "blocks"):
        for name in names:
            try:
                about = os.stat(os.path.join(root, name))
            except FileNotFoundError:
                continue
            found[root, name] = about.st_ino, about.st_size
    return found


# ---- what arrives --------------------------------------------------------------------------------


def test_http_gives_the_bytes_of_the_file_and_fetches_each_block_once(folder, tmp_path):
    with http_server(folder) as server:
        remote, made = RemoteFolder(server.url), reader(tmp_path)
        assert remote.names() == ["0.bin", "1.bin"]
        for seed in range(5):
            check_equal(made, remote, folder, "0.bin", seed)
            check_equal(made, remote, folder, "1.bin", seed)
        blocks = [
            s // BLOCK
            for path, s, e in server.served
            if path == "/0.bin"
            for s in range(s, e, BLOCK)
        ]
        assert len(blocks) == len(set(blocks))
        before = server.asked
        check_equal(reader(tmp_path), remote, folder, "0.bin")
        assert server.asked == before, "what is on the disk is not asked for"


def test_neighbours_come_in_one_request(folder, tmp_path):
    with http_server(folder) as server:
        remote, made = RemoteFolder(server.url), reader(tmp_path)
        made.read(remote.file("0.bin"), np.array([0]), np.array([50_500]))
        assert [r for r in server.served if r[0] == "/0.bin"] == [("/0.bin", 0, 50_500)]


def test_s3_gives_the_bytes_of_the_file(folder, tmp_path, monkeypatch):
    pytest.importorskip("moto")
    with s3_server(monkeypatch, "bucket", folder) as url:
        remote = RemoteFolder(url)
        check_equal(reader(tmp_path), remote, folder, "0.bin")
        with pytest.raises(UserError, match=r"s3://bucket/no/published.json is not there: run"):
            RemoteFolder(f"{url}/no")


def test_a_whole_file_is_downloaded_once(folder, tmp_path):
    with http_server(folder) as server:
        file = RemoteFolder(server.url).file("0.bin")
        cache = BlockCache(tmp_path / "cache", 10**6)
        assert cache.keep_whole(file).read_bytes() == (folder / "0.bin").read_bytes()
        before = server.asked
        cache.keep_whole(file)
        assert server.asked == before


def test_members_of_a_tar_are_read_by_address(tmp_path):
    held = {f"{i:03d}": bytes([i]) * (700 * i + 1) for i in range(9)}
    write_shard(tmp_path / "data" / "0.tar", ((k, "jpg", v) for k, v in held.items()))
    publish(tmp_path / "data", BLOCK)
    with tarfile.open(tmp_path / "data" / "0.tar") as tar:
        places = {i.name.removesuffix(".jpg"): (i.offset_data, i.size) for i in tar}
    with http_server(tmp_path / "data") as server:
        read = RemoteMembers((RemoteFolder(server.url).file("0.tar"),), reader(tmp_path))
        read.want(*np.array([(0, *place) for place in places.values()]).T)
        assert {key: read(0, *place) for key, place in places.items()} == held


def test_publish_names_what_it_wrote_and_what_it_cannot(folder, tmp_path, capsys):
    main(["publish", str(folder)])
    assert capsys.readouterr().out == f"{folder / PUBLISHED_FILE}: 2 files, 0.00 GB\n"
    (tmp_path / "empty").mkdir()
    (folder / "train" / "rgb" / "pieces").mkdir(parents=True)
    for wrong, message in (("empty", "holds no files"), ("data", "is not finished"), ("no", "no")):
        with pytest.raises(SystemExit, match="2"):
            main(["publish", str(tmp_path / wrong)])
        assert message in capsys.readouterr().err


# ---- what goes wrong -----------------------------------------------------------------------------


def test_errors_that_may_pass_are_tried_again(folder, tmp_path):
    with http_server(folder, broken_share=0.3) as server:
        remote, made = RemoteFolder(server.url), reader(tmp_path)
        for seed in range(4):
            check_equal(made, remote, folder, "0.bin", seed)
        assert server.asked > len(server.served)


def test_a_server_that_stays_broken_is_one_sentence(folder):
    with http_server(folder, broken_share=1.0) as server:
        with pytest.raises(UserError, match="could not be read in 6 attempts: [^\n]*$"):
            RemoteFolder(server.url)


def test_a_slow_server_times_out_and_is_asked_again(folder, tmp_path, monkeypatch):
    with http_server(folder) as server:
        remote, before = RemoteFolder(server.url), server.asked
        check_equal(reader(tmp_path / "quick"), remote, folder, "1.bin")
        needed, before = server.asked - before, server.asked
        monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
        server.delay = 1.0
        threading.Timer(0.5, lambda: setattr(server, "delay", 0.0)).start()
        check_equal(reader(tmp_path / "slow"), remote, folder, "1.bin")
        assert server.asked - before > needed


def test_a_server_that_ignores_ranges_is_refused_before_a_large_file(folder):
    with http_server(folder, ignores_ranges=True) as server:
        with pytest.raises(UserError, match="sends whole files where parts are asked for"):
            RemoteFolder(server.url)
        assert server.paths() == {f"/{PUBLISHED_FILE}"}


@pytest.mark.parametrize(
    ("how", "message"),
    [({"forbidden": True}, r"may not be read \(403\)"), ({}, "run `fourm publish")],
)
def test_what_no_other_attempt_can_help_is_not_tried_again(folder, how, message):
    (folder / PUBLISHED_FILE).unlink()
    with http_server(folder, **how) as server:
        with pytest.raises(UserError, match=message):
            RemoteFolder(server.url)
        assert server.asked == 1


def test_a_host_that_is_none_is_named():
    with pytest.raises(UserError, match="no host is called nowhere.invalid"):
        RemoteFolder("http://nowhere.invalid/data")


def test_an_address_that_nothing_reads_is_named():
    with pytest.raises(UserError, match="nothing here reads gopher://"):
        RemoteFolder("gopher://host/data")


def test_missing_credentials_are_named(monkeypatch, tmp_path):
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()  # of other tests' servers
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError, match="no credentials for s3://somewhere"):
        RemoteFolder("s3://somewhere/private")


def test_a_file_that_changed_is_an_error_that_names_it_not_a_mix(folder, tmp_path):
    with http_server(folder) as server:
        remote, made = RemoteFolder(server.url), reader(tmp_path)
        made.read(remote.file("0.bin"), np.array([0]), np.array([BLOCK]))
        (folder / "0.bin").write_bytes(b"x" * 50_500)
        with pytest.raises(UserError, match=r"0\.bin is not the file that was published"):
            made.read(remote.file("0.bin"), np.array([0]), np.array([20 * BLOCK]))
        publish(folder, BLOCK)
        check_equal(made, RemoteFolder(server.url), folder, "0.bin")


def test_a_file_that_became_shorter_is_an_error(folder, tmp_path):
    with http_server(folder) as server:
        remote = RemoteFolder(server.url)
        (folder / "0.bin").write_bytes(b"x" * 10)
        with pytest.raises(UserError, match=r"0\.bin"):
            reader(tmp_path).read(remote.file("0.bin"), np.array([0]), np.array([BLOCK]))


def test_a_block_that_the_disk_spoilt_is_fetched_again(folder, tmp_path):
    with http_server(folder) as server:
        remote = RemoteFolder(server.url)
        check_equal(reader(tmp_path), remote, folder, "1.bin")
        file = remote.file("1.bin")
        path = BlockCache(tmp_path / "cache", 10**6).path(file, 2)
        path.write_bytes(bytes(BLOCK))
        check_equal(reader(tmp_path), remote, folder, "1.bin")
        assert file.is_block(2, path.read_bytes())


# ---- bounded disk, several processes -------------------------------------------------------------


class Watch:
    """The most bytes that blocks took at any moment."""

    def __init__(self, path):
        self._path, self._stop, self.most = path, threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            found, again = blocks_on_disk(self._path), blocks_on_disk(self._path)
            if found == again:  # else a block was moved while we looked: it would count twice
                self.most = max(self.most, sum(size for _, size in found.values()))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def read_for_long(url, folder, cache, seed, repeats):
    made, remote = RemoteReader(BlockCache(cache, 12 * BLOCK)), RemoteFolder(url)
    for i in range(repeats):
        check_equal(made, remote, folder, "0.bin", 1000 * seed + i, num=3)


def test_the_bound_holds_at_all_times_among_processes(folder, tmp_path):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    with http_server(folder) as server:
        with Watch(cache) as watch:
            workers = [
                context.Process(target=read_for_long, args=(server.url, folder, cache, seed, 8))
                for seed in range(3)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert 6 * BLOCK < watch.most <= 12 * BLOCK


def test_a_process_killed_at_any_moment_leaves_a_cache_that_works_and_keeps_its_bound(
    folder, tmp_path
):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    with http_server(folder) as server, Watch(cache) as watch:
        for kill in range(6):
            worker = context.Process(
                target=read_for_long, args=(server.url, folder, cache, kill, 999)
            )
            worker.start()
            time.sleep(0.15 + 0.037 * kill)
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        read_for_long(server.url, folder, cache, 77, 4)
    assert watch.most <= 12 * BLOCK


def test_the_same_blocks_are_fetched_once_for_all_processes(folder, tmp_path):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    with http_server(folder, delay=0.05) as server:

        def read():
            made = RemoteReader(BlockCache(cache, 10**6))
            check_equal(made, RemoteFolder(server.url), folder, "1.bin")

        workers = [context.Process(target=read) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert server.num_bytes == 7 * BLOCK


def test_a_cache_smaller_than_a_block_is_named(folder, tmp_path):
    with http_server(folder) as server:
        file = RemoteFolder(server.url).file("0.bin")
        with pytest.raises(UserError, match="data.cache_bytes is 10, less than one block"):
            reader(tmp_path, 10).read(file, np.array([0]), np.array([5]))


def test_what_is_wanted_later_is_there_when_it_is_read(folder, tmp_path):
    with http_server(folder, delay=0.02) as server:
        made, file = reader(tmp_path), RemoteFolder(server.url).file("0.bin")
        made.want(file, np.array([0]), np.array([50_500]))
        deadline = time.monotonic() + 10
        while made.cache.lacks(file, np.arange(file.num_blocks)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = server.asked
        made.read(file, np.array([0]), np.array([50_500]))
        assert server.asked == before
