"""Promises about training from a server: batches are those of the same samples on the disk."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from chaos import turn_a_bit
from remote_servers import http_server, s3_server
from remote_worlds import MASKING, modality_mapping, modality_set, write_world
from soak import write_config

from fourm.batches.batch import map_tensors
from fourm.batches.masking import Masker, MaskingConfig
from fourm.cli import main
from fourm.config import from_mapping
from fourm.data.masked_batches import MaskedBatches
from fourm.data.order import BlockOrder, SampleOrder
from fourm.data.remote import fetching
from fourm.data.store import DataConfig, SourceConfig, open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet

pytest.importorskip("aiohttp")
NUM = 3_100
ORDER = BlockOrder(block=64, window=3)
BATCH = 24


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.005)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    write_world(root, NUM)
    return root


@pytest.fixture
def server(world):
    with http_server(world) as running:
        yield running


def opened(cache, *addresses, cache_bytes=10**7):
    sources = tuple(SourceConfig(tokens=str(a), order=ORDER) for a in addresses)
    config = DataConfig(sources=sources, cache=str(cache), cache_bytes=cache_bytes)
    return open_sources(config, "train", modality_set())


def batches(sources, rank=0, world_size=1, read_ahead=0, micro=1):
    order = SampleOrder(
        [s.num_samples for s in sources],
        [1.0] * len(sources),
        3,
        blocks=[s.blocks for s in sources],
    )
    masker = Masker(modality_set(), from_mapping(MaskingConfig, MASKING, "masking"), 3)
    return MaskedBatches(sources, order, masker, BATCH, micro, rank, world_size, read_ahead)


def plain(batch):
    """A batch as nested lists."""
    found = []
    map_tensors(batch, lambda tensor: found.append(tensor.tolist()))
    assert found
    return [found, batch.samples.tolist(), batch.encoder.lengths.tolist(), batch.decoder.counts]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert plain(a) == plain(b)


def test_batches_are_those_of_the_same_samples_on_the_disk(world, server, tmp_path):
    local = batches(opened(tmp_path / "local", world))
    remote = batches(opened(tmp_path / "remote", server.url), read_ahead=4)
    for step in (0, 1, 2, 129, 130, 7_000):
        same(remote[step], local[step])


def test_batches_from_s3_are_those_of_the_same_samples_on_the_disk(world, tmp_path, monkeypatch):
    pytest.importorskip("moto")
    with s3_server(monkeypatch, "bucket", world) as url:
        remote = batches(opened(tmp_path / "remote", url))
        local = batches(opened(tmp_path / "local", world))
        for step in (0, 77):
            same(remote[step], local[step])


def test_local_and_remote_sources_mix(world, server, tmp_path):
    local = opened(tmp_path / "local", world, world)
    mixed = opened(tmp_path / "mixed", world, server.url)
    for step in (0, 50):
        same(batches(mixed, read_ahead=2)[step], batches(local)[step])


@pytest.mark.parametrize("num_workers", [0, 3])
def test_any_ranks_and_workers_make_the_same_stream(world, server, tmp_path, num_workers):
    whole = batches(opened(tmp_path / "local", world))
    for world_size in (2, 4):
        ranks = []
        for rank in range(world_size):
            data = batches(opened(tmp_path / "shared", server.url), rank, world_size, 4)
            loader = torch.utils.data.DataLoader(
                data, batch_size=None, sampler=range(5), num_workers=num_workers
            )
            ranks.append([batch for (batch,) in loader])
        for step in range(5):
            samples = [s for rank in ranks for s in rank[step].samples.tolist()]
            assert samples == whole[step][0].samples.tolist()
            modality = torch.cat([rank[step].encoder.modality for rank in ranks])
            assert torch.equal(modality, whole[step][0].encoder.modality)
            target = torch.cat([rank[step].decoder.target for rank in ranks])
            assert torch.equal(target, whole[step][0].decoder.target)


def test_the_keys_of_samples_are_known(world, server, tmp_path):
    samples = np.array([0, 5, 2_999])
    (local,), (remote,) = (
        opened(tmp_path / "l", world),
        opened(tmp_path / "r", server.url),
    )
    assert remote.keys(samples) == local.keys(samples)


def test_resuming_fetches_its_window_and_nothing_else(tmp_path_factory, tmp_path):
    root = tmp_path_factory.mktemp("large")
    write_world(root, 8_000)
    order = BlockOrder(block=512, window=2)
    with http_server(root) as server:
        config = DataConfig(
            sources=(SourceConfig(tokens=server.url, order=order),), cache=str(tmp_path)
        )
        data = batches(open_sources(config, "train", modality_set()))
        before = server.num_bytes
        for step in range(10_000, 10_004):
            data[step]
        values = sum(stop - start for p, start, stop in server.served if p.endswith("values.bin"))
    window = order.block * order.window * (32 + 0.7 * 32 + 0.6 * 17)
    # blocks of the cache stand out over the ends of both blocks of the order, in 3 modalities
    assert server.num_bytes - before <= window + 2 * 3 * 2 * 4096
    assert values <= window + 3 * 4096 + 2 * 3 * 2 * 4096  # the first to compile masking


def test_the_next_steps_are_here_before_they_are_asked_for(world, server, tmp_path):
    data = batches(opened(tmp_path, server.url), read_ahead=8)
    data[0]
    deadline = time.monotonic() + 20
    settled = -1
    while settled != server.asked:
        assert time.monotonic() < deadline
        settled = server.asked
        time.sleep(0.3)
    data._look_ahead = None
    for step in range(1, 9):
        data[step]
    assert server.asked == settled


def test_a_disk_that_holds_less_than_a_window_still_gives_the_right_batches(
    world, server, tmp_path
):
    local = batches(opened(tmp_path / "local", world))
    remote = batches(opened(tmp_path / "remote", server.url, cache_bytes=3 * 4096), read_ahead=2)
    for step in range(3):
        same(remote[step], local[step])


def test_a_bit_that_turns_over_in_what_is_kept_whole_changes_no_batch(world, server, tmp_path):
    def first(sources):
        made = batches(sources)
        return [batch for step in range(4) for batch in made[step]]

    cache, rng = tmp_path / "cache", np.random.default_rng(0)
    wanted = first(opened(tmp_path / "disk", world))
    same(first(opened(cache, server.url)), wanted)
    kept = sorted(path for path in (cache / "remote" / "files").iterdir() if path.stat().st_size)
    assert len(kept) > 10 and sum(path.stat().st_size > 2_000 for path in kept) > 2
    for path in kept:
        for place in [0, path.stat().st_size - 1, int(rng.integers(path.stat().st_size))]:
            turn_a_bit(path, place)
        same(first(opened(cache, server.url)), wanted)
    # a source that is open and has not looked yet
    late = opened(cache, server.url)
    for path in kept:
        with open(path, "r+b") as file:
            file.write(bytes(path.stat().st_size))
    same(first(late), wanted)


def test_blocks_are_the_default_for_remote_sources_alone(world, server, tmp_path):
    config = DataConfig(
        sources=(SourceConfig(tokens=server.url), SourceConfig(tokens=str(world))),
        cache=str(tmp_path),
    )
    remote, local = open_sources(config, "train", modality_set())
    assert remote.blocks == BlockOrder() and local.blocks is None


def test_a_remote_source_that_is_joined_by_key_is_read_in_blocks_and_ahead_too(server, tmp_path):
    config = DataConfig(
        sources=(SourceConfig(tokens=server.url, join="key"), SourceConfig(tokens=server.url)),
        cache=str(tmp_path),
    )
    joined, plainly = open_sources(config, "train", modality_set())
    assert joined.blocks == BlockOrder() and joined.window_bytes == plainly.window_bytes > 0


def test_what_an_address_lacks_is_named(server, tmp_path):
    config = DataConfig(sources=(SourceConfig(tokens=server.url),), cache=str(tmp_path))
    with pytest.raises(UserError, match="no shards of any modality under http://127.0.0.1"):
        open_sources(config, "test", modality_set())


def test_ids_of_another_vocabulary_or_tokenizer_are_refused(server, tmp_path):
    config = DataConfig(sources=(SourceConfig(tokens=server.url),), cache=str(tmp_path))
    with pytest.raises(UserError, match="train/caption/ was made by tokenizer made-for-tests"):
        open_sources(config, "train", modality_set(), {"caption": "another"})
    fewer = modality_mapping()
    fewer["modalities"]["rgb"]["vocab_size"] = 400
    with pytest.raises(UserError, match=r"rgb/00000.chunk: id 49\d is outside the vocabulary"):
        open_sources(config, "train", ModalitySet.from_mapping(fewer))


def test_a_window_larger_than_the_cache_is_told(server, tmp_path, caplog):
    opened(tmp_path, server.url, cache_bytes=2 * 4096)
    assert "raise that or lower order.window" in caplog.text
    caplog.clear()
    opened(tmp_path, server.url)
    assert "order.window" not in caplog.text


def test_the_list_of_a_folder_that_is_no_list_is_refused(world, tmp_path):
    (tmp_path / "published.json").write_text(json.dumps({"version": 1}))
    with http_server(tmp_path) as server:
        with pytest.raises(UserError, match="is not what `fourm publish` writes"):
            opened(tmp_path / "cache", server.url)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_training_whose_data_changes_ends_with_one_sentence(tmp_path, capsys, num_workers):
    write_world(tmp_path / "world", 600, splits=("train", "val"))
    with http_server(tmp_path / "world") as server:
        config = write_config(tmp_path, [server.url], 40)
        changed = tmp_path / "world/train/rgb/00001.chunk/values.bin"
        changed.write_bytes(bytes(changed.stat().st_size))
        with pytest.raises(SystemExit) as ended:
            main(["pretrain", str(config), f"loop.num_workers={num_workers}", "adaptive=null"])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert last.startswith(f"error: {server.url}/train/rgb/00001.chunk/values.bin is not the file")
