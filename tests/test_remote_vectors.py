"""Promises about vectors that stay in tars on a server: batches are those of the same tars on the
disk; what cannot be read this way is refused with what to do.
"""

from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from remote_servers import http_server
from test_remote_data import same
from test_remote_pictures import CROPS, EACH, NUM, short_pauses, write_raw, write_tokens

from fourm.batches.masking import Masker, MaskingConfig
from fourm.config import from_mapping
from fourm.data.masked_batches import MaskedBatches
from fourm.data.npy import write_npy
from fourm.data.order import BlockOrder, SampleOrder
from fourm.data.remote.published import publish
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import DataConfig, SourceConfig, open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet

pytest.importorskip("aiohttp")
__all__ = ["short_pauses"]  # a fixture, used here too
BLOCK, BATCH = 1024, 12
RGB = {"kind": "grid", "vocab_size": 50, "grid": [4, 4], "raw": {"type": "image", "size": 16}}
T5 = {
    "kind": "continuous",
    "raw": {"type": "vectors", "channels": 6, "dtype": "float16"},
    "width": 6,
    "max_tokens": 5,
}
MASKING = {
    "num_inputs": [4, 16],
    "num_targets": [4, 16],
    "components": [{"input": {"t5": 1.0, "rgb": 0.5}, "target": {"rgb": 1.0}}],
}
UNREADABLE, ANOTHER_WIDTH = 9, 30  # samples


def vectors_of(i: int) -> tuple[str, bytes]:
    """Extension and bytes of a sample's file: up to seven vectors, one alone, masked ones."""
    rng = np.random.default_rng(i)
    values = rng.normal(size=(i % 8, 6)).astype(np.float32)
    if i == ANOTHER_WIDTH:
        values = np.ones((3, 7), np.float32)
    if i % 8 == 1:
        return "npy", write_npy(values[0])
    if i % 3:
        return "npy", write_npy(values)[: 40 if i == UNREADABLE - 1 else None]
    buffer = io.BytesIO()
    np.savez(buffer, emb=values, mask_valid=rng.random(len(values)) < 0.7)
    return "npz", buffer.getvalue()[: 50 if i == UNREADABLE else None]


@pytest.fixture(scope="module", params=["a folder a modality", "together"])
def world(request, tmp_path_factory):
    """Tokens of three crops of each picture, and a list of vectors for each; all published."""
    root = tmp_path_factory.mktemp("world")
    together = request.param == "together"
    for shard in range(NUM // EACH):
        members = []
        for i in range(shard * EACH, (shard + 1) * EACH):
            extension, data = vectors_of(i)
            members.append((f"{i:04d}", f"t5.{extension}" if together else extension, data))
        path = shard_path(root / "raw", "train", "" if together else "t5", shard)
        write_shard(path, members)
    write_tokens(root / "tokens", CROPS)
    for folder in ("raw", "tokens"):
        publish(root / folder, BLOCK)
    return root


def modalities(**more) -> ModalitySet:
    return ModalitySet.from_mapping({"modalities": {"rgb": RGB, "t5": T5} | more})


def opened(cache, tokens, raw, chosen=None, cache_bytes=10**7):
    source = SourceConfig(tokens=str(tokens), raw=str(raw), order=BlockOrder(block=EACH, window=2))
    config = DataConfig(
        sources=(source,), cache=str(cache), cache_bytes=cache_bytes, max_damage=0.1
    )
    return open_sources(config, "train", chosen or modalities())


def batches(sources, rank=0, world_size=1, read_ahead=0) -> MaskedBatches:
    blocks = [s.blocks for s in sources]
    order = SampleOrder([s.num_samples for s in sources], [1.0], 3, blocks=blocks)
    masker = Masker(modalities(), from_mapping(MaskingConfig, MASKING, "masking"), 3)
    return MaskedBatches(sources, order, masker, BATCH, 1, rank, world_size, read_ahead)


def test_vectors_of_a_server_are_those_of_the_disk(world, tmp_path):
    (local,) = opened(tmp_path / "local", world / "tokens", world / "raw")
    with http_server(world, broken_share=0.1) as server:
        (remote,) = opened(tmp_path / "remote", world / "tokens", f"{server.url}/raw")
        assert remote.num_samples == local.num_samples == NUM * CROPS.num_crops
        samples = np.arange(local.num_samples)
        assert remote.keys(samples) == local.keys(samples)
        ours, theirs = (s.gather(samples).content["t5"] for s in (remote, local))
        wide = np.array([f"/{ANOTHER_WIDTH:04d}" in key for key in local.keys(samples)])
        assert (ours.lengths == theirs.lengths)[~wide].all() and ours.lengths.max() == 5
        readable = np.flatnonzero(~wide & (theirs.lengths > 0))
        for sample in np.random.default_rng(0).permutation(readable)[:60]:
            at = np.arange(theirs.lengths[sample])[::-1]
            found, wanted = (held.take(np.full(len(at), sample), at) for held in (ours, theirs))
            assert found.dtype == wanted.dtype == np.float16 and (found == wanted).all()


def test_batches_are_those_of_the_disk_on_any_ranks_and_fetched_within_the_bound(world, tmp_path):
    local = batches(opened(tmp_path / "local", world / "tokens", world / "raw"))
    with http_server(world) as server:
        bound = 12 * BLOCK
        remote = opened(
            tmp_path / "remote", f"{server.url}/tokens", f"{server.url}/raw", cache_bytes=bound
        )
        whole = batches(remote, read_ahead=2)
        halves = [batches(remote, rank, 2) for rank in range(2)]
        for step in (0, 1, 17, 18, 1_000):
            same(whole[step], local[step])
            together = [len(half[step][0].samples) for half in halves]
            assert sum(together) == BATCH
        cached = [p for p in (tmp_path / "remote" / "remote").rglob("*") if p.is_file()]
        blocks = [p.stat().st_size for p in cached if "whole" not in str(p)]
        assert any(blocks)
        assert {p.rpartition(".")[2] for p in server.paths() if "/raw/" in p} <= {
            "tar",
            "json",
            "jsonl",
        }
    unread = sum(whole_step[0].num_unreadable for whole_step in (local[s] for s in range(3)))
    assert unread == 0  # a file of another width is known to be damaged on the disk


def test_a_listing_that_counts_no_vectors_is_refused_with_what_to_do(world, tmp_path):
    (listing,) = (world / "raw").rglob("00000.tar")
    listing = listing.parent / "members.jsonl"
    told, published = listing.read_text(), (world / "raw" / "published.json").read_text()
    lines = [json.loads(line) for line in told.splitlines()]
    assert [len(line["files"]) for line in lines] == [len(line["lengths"]) for line in lines]
    for line in lines:
        del line["lengths"]  # as releases before wrote it
    try:
        listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
        old = listing.read_bytes()
        names = json.loads(published)
        entry = names["files"][str(listing.relative_to(world / "raw"))]
        sums = [zlib.crc32(old[i : i + BLOCK]) for i in range(0, len(old), BLOCK)]
        entry |= {"size": len(old), "crc32": np.array(sums, ">u4").tobytes().hex()}
        (world / "raw" / "published.json").write_text(json.dumps(names))
        with http_server(world) as server:
            with pytest.raises(UserError, match="00000.tar has no vectors, or its listing .*publi"):
                opened(tmp_path, world / "tokens", f"{server.url}/raw")
    finally:
        listing.write_text(told)
        (world / "raw" / "published.json").write_text(published)


def test_other_raw_values_over_a_network_are_refused_with_what_to_do(tmp_path):
    write_raw(tmp_path / "raw")
    publish(tmp_path / "raw", BLOCK)
    told = {"kind": "continuous", "raw": {"type": "text"}, "width": 16, "max_tokens": 4}
    with http_server(tmp_path) as server:
        with pytest.raises(UserError, match="type text are not: keep the raw shards of told on"):
            opened(tmp_path, "", f"{server.url}/raw", chosen=modalities(told=told))
