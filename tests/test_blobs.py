"""Pictures stay in their tars: found by headers alone, read by address, damaged ones set aside."""

import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fourm.data import blobs
from fourm.data.blobs import TarFiles, TarStamp, addresses_of
from fourm.data.crop_settings import CropSettings
from fourm.data.shards import WHOLE_SHARD, DamageReport, write_shard
from fourm.data.tar_headers import members_of
from fourm.errors import UserError

EXTENSIONS = ("jpg", "png")
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
LONG = "/".join(["folder" * 12] * 3)


def write_tar(path, members, tar_format=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 0.5 if tar_format == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(data))
    return path


def some_members(seed=0, num=40):
    rng = np.random.default_rng(seed)
    return {
        f"{i:04d}.{EXTENSIONS[i % 2]}": rng.bytes(int(rng.integers(1, 3000))) for i in range(num)
    }


def by_tarfile(path):
    with tarfile.open(path, "r:") as tar:
        return [(i.name, i.offset_data, i.size) for i in tar if i.isfile()]


def listed(path):
    return [(member.name, member.offset, member.size) for member in members_of(path)]


def index(paths, crops=None, member=""):
    report = DamageReport()
    found = addresses_of(
        map(TarStamp.of, paths), EXTENSIONS, crops or CropSettings(), member, report
    )
    return {key: value[0].tolist() for _, key, value in found}, report


@pytest.mark.parametrize("tar_format", FORMATS.values(), ids=FORMATS)
def test_headers_tell_what_tarfile_tells_of_any_kind_of_tar(tmp_path, tar_format):
    members = some_members()
    if tar_format != tarfile.USTAR_FORMAT:
        members |= {f"{LONG}/a.jpg": b"x" * 700, "größe.jpg": b"y", "empty.jpg": b""}
    path = write_tar(tmp_path / "a.tar", members, tar_format)
    with tarfile.open(path, "a", format=tar_format) as tar:
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("link.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "0000.jpg"
        tar.addfile(folder)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("last.jpg"))
    assert listed(path) == by_tarfile(path)
    assert len(listed(path)) == len(members) + 1


def test_our_own_shards_are_listed_as_tarfile_does(tmp_path):
    path = tmp_path / "00000.tar"
    write_shard(path, ((f"{i}", "jpg", b"x" * i) for i in range(1, 30)))
    assert listed(path) == by_tarfile(path)


def test_no_byte_of_a_member_is_read_to_list_it(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", {f"{i}.jpg": b"x" * 100_000 for i in range(20)})
    num_bytes, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *a: num_bytes.append(a[1]) or pread(*a))
    assert len(listed(path)) == 20
    assert sum(num_bytes) < 0.05 * path.stat().st_size


def test_addresses_lead_to_the_bytes_of_each_file_and_crops_share_them(tmp_path):
    members = [some_members(0), {k.replace("0", "a"): v for k, v in some_members(1).items()}]
    paths = [write_tar(tmp_path / f"{i}.tar", held) for i, held in enumerate(members)]
    read = TarFiles([TarStamp.of(path) for path in paths])
    found, report = index(paths)
    assert report.num_seen == len(found) == 80 and not report.entries
    everything = {**members[0], **members[1]}
    for key, (tar, offset, size, kind) in found.items():
        assert read(tar, offset, size) == everything[f"{key}.{EXTENSIONS[kind]}"]
    crops, _ = index(paths[:1], CropSettings(num_crops=3))
    assert list(crops)[:4] == ["0000", "0000~1", "0000~2", "0001"]
    assert crops["0000~2"] == crops["0000"] == found["0000"]


def test_one_modality_is_listed_of_tars_that_hold_several(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.rgb.jpg": b"r", "1.depth.png": b"d", "1.txt": b"t"})
    found, _ = index([path], member="depth")
    assert list(found) == ["1"] and found["1"][2:] == [1, 1]


def test_damage_that_headers_show_is_reported_and_the_rest_is_kept(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", some_members())
    whole = path.read_bytes()
    name, offset, _ = listed(path)[20]
    path.write_bytes(whole[: offset + 1])  # ends within a member
    found, report = index([path])
    assert len(found) == 20 and name.partition(".")[0] not in found
    member, rest = report.entries
    assert (member.key, member.reason, rest.key) == ("0020", "truncated", WHOLE_SHARD)
    path.write_bytes(whole[: offset - 512] + b"\x07" * 512 + whole[offset:])  # a header is noise
    found, report = index([path])
    assert 18 < len(found) <= 20 and "shard ends early" in report.entries[0].reason
    twice = {"1.jpg": b"a", "1.png": b"b", "2.jpg": b"", "3.jpg": b"c" * 99}
    monkeypatch.setattr(blobs, "MAX_BYTES", 50)
    found, report = index([write_tar(tmp_path / "b.tar", twice)])
    assert list(found) == ["1"]
    reasons = [e.reason for e in report.entries]
    assert reasons[0] == "key appears twice" and "of 0 bytes" in reasons[1]
    assert "of 99 bytes" in reasons[2]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    _, report = index([path])
    assert "unpack it" in report.entries[0].reason


def test_any_bytes_end_in_a_report_and_not_in_a_crash(tmp_path):
    whole = write_tar(tmp_path / "a.tar", some_members(num=6)).read_bytes()
    rng, damaged = np.random.default_rng(0), 0
    for i in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), 30):
            data[at] = rng.integers(0, 256)
        path = tmp_path / f"{i}.tar"
        path.write_bytes(bytes(data[: rng.integers(1, len(data))]))
        found, report = index([path])
        assert len(found) <= 6
        damaged += bool(report.entries)
        path.unlink()
    assert damaged > 100


def test_a_tar_that_changed_since_it_was_listed_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", some_members())
    read = TarFiles([TarStamp.of(path)])
    moved = TarFiles([TarStamp.of(path)])
    os.utime(path, (1, 1))
    with pytest.raises(UserError, match="a.tar has changed since its files were listed"):
        read(0, 512, 1)
    path.unlink()
    with pytest.raises(UserError, match="has changed"):
        moved(0, 512, 1)


def test_files_held_open_are_bounded_and_threads_and_forks_read_the_right_bytes(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(blobs, "_MAX_OPEN", 3)
    members = {f"{i}.jpg": bytes([i]) * 5000 for i in range(8)}
    paths = [write_tar(tmp_path / f"{n}.tar", {n: d}) for n, d in members.items()]
    found, _ = index(paths)
    read = TarFiles([TarStamp.of(path) for path in paths])

    def check(seed):
        for i in np.random.default_rng(seed).integers(0, 8, 300):
            tar, offset, size, _ = found[str(i)]
            assert read(tar, offset, size) == bytes([i]) * 5000

    def num_open():
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return sum(os.readlink(fd).startswith(str(tmp_path)) for fd in links if os.path.exists(fd))

    check(0)
    assert num_open() == 3
    children = []
    for seed in range(2):  # forked with the parent's files open, all at once
        pid = os.fork()
        if not pid:
            try:
                check(seed)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    check(3)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(4)))
    assert num_open() <= 3
