"""Promises about pictures that stay on a server: batches are those of the same tars on the disk."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from remote_servers import http_server, s3_server
from test_remote_data import plain, same

from fourm.batches.masking import Masker, MaskingConfig
from fourm.config import from_mapping
from fourm.data.chunks import ChunkWriter
from fourm.data.crop_settings import CropSettings
from fourm.data.crops import sample_key
from fourm.data.masked_batches import MaskedBatches
from fourm.data.order import BlockOrder, SampleOrder
from fourm.data.remote import fetching
from fourm.data.remote.published import publish
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import DataConfig, SourceConfig, open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet

pytest.importorskip("aiohttp")
NUM, EACH = 72, 12  # pictures, of a tar
BLOCK = 4096  # bytes
CROPS = CropSettings(num_crops=3, flip=True)
BATCH = 12
ORDER = BlockOrder(block=EACH, window=2)
RGB = {"raw": {"type": "image", "size": 16}}
GRID = {"kind": "grid", "vocab_size": 50, "grid": [4, 4], **RGB}
PIXELS = {"kind": "continuous", "source": "rgb", "patch_size": 4}
MODALITIES = {"rgb": GRID, "pixels": PIXELS}
MASKING = {
    "num_inputs": [4, 16],
    "num_targets": [4, 16],
    "components": [
        {"input": {"pixels": 1.0, "rgb": 0.3}, "target": {"rgb": 1.0}},
        {"input": {"rgb": 1.0}, "target": {"rgb": 1.0}},
    ],
}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.005)


def modalities(**more):
    return ModalitySet.from_mapping({"modalities": MODALITIES | more})


def picture(number, kind):
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    large = small.resize((23 + number % 5, 21), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    large.save(buffer, kind)
    return buffer.getvalue()


def write_raw(root, kind="JPEG", damaged=(), folder="rgb", extension=""):
    """Pictures in tars of 12, some of them cut short."""
    for shard in range(NUM // EACH):
        members = []
        for i in range(shard * EACH, (shard + 1) * EACH):
            data = picture(i, kind)
            data = data[: len(data) // 2] if i in damaged else data
            members.append((f"{i:04d}", extension or kind.lower().replace("jpeg", "jpg"), data))
        write_shard(shard_path(root, "train", folder, shard), members)


def write_tokens(root, crops=None):
    crops = crops or CropSettings()
    folder = root / "train" / "rgb" / "00000.chunk"
    folder.mkdir(parents=True)
    ids = np.random.default_rng(0)
    with ChunkWriter(folder, {"fingerprint": "made-for-tests"}) as writer:
        for i in range(NUM):
            for crop in range(crops.num_crops):
                name = sample_key(f"{i // EACH:05d}/{i:04d}", crop)
                writer.add(name, ids.integers(0, 50, 16).astype(np.uint16))
    if crops.num_crops > 1:
        crops.write(root / "train")


@pytest.fixture(scope="module", params=["JPEG", "PNG"])
def world(request, tmp_path_factory):
    """Tokens of three crops of each picture, and the pictures; all published."""
    root = tmp_path_factory.mktemp("world")
    write_raw(root / "raw", request.param, damaged=(5, 40))
    write_tokens(root / "tokens", CROPS)
    for folder in ("raw", "tokens"):
        publish(root / folder, BLOCK)
    return root


def opened(cache, tokens, raw, cache_bytes=10**7, order=ORDER, chosen=None):
    source = SourceConfig(tokens=str(tokens), raw=str(raw), order=order)
    config = DataConfig(sources=(source,), cache=str(cache), cache_bytes=cache_bytes)
    return open_sources(config, "train", chosen or modalities())


def batches(sources, rank=0, world_size=1, read_ahead=0):
    order = SampleOrder(
        [s.num_samples for s in sources], [1.0], 3, blocks=[s.blocks for s in sources]
    )
    masker = Masker(modalities(), from_mapping(MaskingConfig, MASKING, "masking"), 3)
    return MaskedBatches(sources, order, masker, BATCH, 1, rank, world_size, read_ahead)


def test_pictures_and_tokens_of_a_server_give_the_batches_of_the_disk(world, tmp_path):
    local = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    with http_server(world) as server:
        remote = opened(tmp_path / "remote", f"{server.url}/tokens", f"{server.url}/raw")
        found = batches(remote, read_ahead=3)
        for step in (0, 1, 2, 17, 18, 1_000):
            same(found[step], local[step])
    unread = sum(local[step][0].num_unreadable for step in range(18))
    assert unread > 0  # an epoch meets both damaged pictures


def test_pictures_on_the_disk_are_cut_as_tokens_of_a_server_say(world, tmp_path):
    local = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    with http_server(world) as server:
        mixed = batches(opened(tmp_path / "a", f"{server.url}/tokens", world / "raw"))
        other = batches(opened(tmp_path / "b", world / "tokens", f"{server.url}/raw"))
        for step in (0, 9):
            same(mixed[step], local[step])
            same(other[step], local[step])


def test_pictures_from_s3_give_the_batches_of_the_disk(world, tmp_path, monkeypatch):
    pytest.importorskip("moto")
    local = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    with s3_server(monkeypatch, "bucket", world) as url:
        remote = batches(opened(tmp_path / "remote", f"{url}/tokens", f"{url}/raw"))
        for step in (0, 7):
            same(remote[step], local[step])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_pictures_are_the_same_on_any_ranks_and_workers(world, tmp_path, num_workers):
    whole = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    with http_server(world) as server:
        ranks = []
        for rank in range(2):
            sources = opened(tmp_path / "shared", f"{server.url}/tokens", f"{server.url}/raw")
            loader = torch.utils.data.DataLoader(
                batches(sources, rank, 2, 2),
                batch_size=None,
                sampler=range(4),
                num_workers=num_workers,
            )
            ranks.append([batch for (batch,) in loader])
    for step, (expected,) in enumerate(whole[step] for step in range(4)):
        for field in ("modality", "vectors"):
            held = getattr(expected.encoder, field)
            found = [getattr(rank[step].encoder, field) for rank in ranks]
            if torch.is_tensor(held):
                assert torch.equal(torch.cat(found), held)
            else:
                for name, values in held.items():
                    of_name = [part[name].values for part in found if name in part]
                    assert torch.equal(torch.cat(of_name), values.values)
        samples = [s for rank in ranks for s in rank[step].samples.tolist()]
        assert samples == expected.samples.tolist()


def test_the_cache_of_pictures_keeps_its_bound_and_the_batches(world, tmp_path):
    local = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    bound = 3 * BLOCK
    with http_server(world) as server:
        raw, tokens = f"{server.url}/raw", f"{server.url}/tokens"
        remote = batches(opened(tmp_path / "remote", tokens, raw, bound), read_ahead=2)
        for step in range(6):
            same(remote[step], local[step])
            blocks = (tmp_path / "remote" / "remote" / "blocks").rglob("*")
            assert sum(block.stat().st_size for block in blocks if block.is_file()) <= bound


def test_what_lies_in_no_window_is_not_fetched(tmp_path):
    write_raw(tmp_path / "raw")
    write_tokens(tmp_path / "tokens")
    publish(tmp_path / "raw", BLOCK)
    with http_server(tmp_path) as server:
        order = BlockOrder(block=EACH, window=1)  # the pictures of a tar
        sources = opened(tmp_path / "cache", tmp_path / "tokens", f"{server.url}/raw", order=order)
        assert sources[0].window_bytes > 0
        data = batches(sources)
        before = {path for path in server.paths() if path.endswith(".tar")}
        data[1_000]  # a batch is a window
        fetched = {path for path in server.paths() if path.endswith(".tar")} - before
    assert len(before) <= 1 and len(fetched) == 1


def test_a_tar_of_several_modalities_is_read_by_its_member(tmp_path):
    for root in (tmp_path / "several", tmp_path / "one"):
        write_tokens(root / "tokens")
    write_raw(tmp_path / "one" / "raw")
    write_raw(tmp_path / "several" / "raw", folder="", extension="rgb.jpg")
    publish(tmp_path / "several" / "raw", BLOCK)
    local = batches(opened(tmp_path / "l", tmp_path / "one/tokens", tmp_path / "one/raw"))
    with http_server(tmp_path / "several") as server:
        tokens = tmp_path / "several" / "tokens"
        remote = batches(opened(tmp_path / "r", tokens, f"{server.url}/raw"))
        assert plain(remote[3][0]) == plain(local[3][0])


def test_a_damaged_tar_is_reported_as_on_the_disk(tmp_path):
    write_raw(tmp_path / "raw")
    path = shard_path(tmp_path / "raw", "train", "rgb", 2)
    path.write_bytes(path.read_bytes()[:3000])
    write_tokens(tmp_path / "tokens")
    publish(tmp_path / "raw", BLOCK)

    def told(cache, raw):
        with pytest.raises(UserError) as found:
            opened(tmp_path / cache, tmp_path / "tokens", raw)
        return str(found.value).replace(str(raw), "RAW").replace(str(tmp_path / cache), "CACHE")

    with http_server(tmp_path) as server:
        remote = told("remote", f"{server.url}/raw")
    assert remote == told("local", tmp_path / "raw") and "end early: 1" in remote


def test_tars_that_no_listing_describes_are_refused_with_what_to_do(tmp_path):
    write_raw(tmp_path / "raw")
    write_tokens(tmp_path / "tokens")
    publish(tmp_path / "raw", BLOCK)
    text = (tmp_path / "raw" / "published.json").read_text()
    with http_server(tmp_path) as server:
        (tmp_path / "raw" / "published.json").write_text(text.replace("members.jsonl", "x.jsonl"))
        with pytest.raises(UserError, match="rgb has no members.jsonl.*run `fourm publish`"):
            opened(tmp_path / "a", tmp_path / "tokens", f"{server.url}/raw")
        (tmp_path / "raw" / "published.json").write_text(text)
        shutil.copy(
            shard_path(tmp_path / "raw", "train", "rgb", 0),
            shard_path(tmp_path / "raw", "train", "rgb", 1),
        )
        sources = opened(tmp_path / "b", tmp_path / "tokens", f"{server.url}/raw")
        with pytest.raises(UserError, match="00001.tar is not the file that was published"):
            for step in range(6):
                batches(sources)[step]
