"""Shards of different origins are joined by their keys, whatever their shards are called; a key
that one modality has twice is named.
"""

from typing import Literal

import numpy as np
import pytest
from worlds import MODALITIES

from fourm.data.npy import write_npy
from fourm.data.shards import write_shard
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import ModalitySet


def write(root, modality: str, shard: str, keys: list[str]) -> None:
    """Ids of a grid that are all the number in the key."""
    members = ((k, "npy", write_npy(np.full(16, int(k[1:]), np.uint16))) for k in keys)
    write_shard(root / "tokens" / "train" / modality / f"{shard}.tar", members)


def opened(root, join: Literal["shard/key", "key"]) -> Source:
    config = SourceConfig(tokens=str(root / "tokens"), join=join)
    return Source(config, "train", ModalitySet.from_mapping(MODALITIES), root / "cache", 0.0)


@pytest.fixture
def origins(tmp_path):
    write(tmp_path, "rgb", "00000", ["a1", "a2", "a3"])
    write(tmp_path, "rgb", "00001", ["a4"])
    write(tmp_path, "depth", "estimated-7", ["a4", "a2", "a9"])
    return tmp_path


def test_the_key_alone_joins_shards_of_different_names(origins):
    source = opened(origins, "key")
    assert source.keys(np.arange(5)) == [
        "00000/a1",
        "00000/a2",
        "00000/a3",
        "00001/a4",
        "estimated-7/a9",
    ]
    held = source.gather(np.arange(5)).content
    assert held["rgb"].lengths.tolist() == [16, 16, 16, 16, 0]
    assert held["depth"].lengths.tolist() == [0, 16, 0, 16, 16]
    assert held["depth"].padded()[[1, 3, 4], 0].tolist() == [2, 4, 9]
    assert opened(origins, "shard/key").num_samples == 7


def test_a_key_that_a_modality_has_twice_is_named_with_both_shards(origins):
    write(origins, "depth", "estimated-8", ["a2"])
    with pytest.raises(
        UserError, match="depth has the key of estimated-7/a2 again, in estimated-8"
    ):
        opened(origins, "key")
    assert opened(origins, "shard/key").num_samples == 8
