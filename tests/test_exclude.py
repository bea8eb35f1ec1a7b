"""Samples that a source leaves out by name: the order is one of the others, what the names do not
fit is said, held-out data keeps its own.
"""

import numpy as np
import pytest
from test_join import write
from worlds import MODALITIES

from fourm.data.crop_settings import CropSettings
from fourm.data.npy import write_npy
from fourm.data.order import SampleOrder
from fourm.data.shards import write_shard
from fourm.data.store import DataConfig, SourceConfig, open_sources
from fourm.errors import UserError
from fourm.modalities import ModalitySet

KEYS = [f"a{i}" for i in range(1, 31)]


@pytest.fixture
def data(tmp_path):
    """Thirty pictures; of every other one there is depth."""
    write(tmp_path, "rgb", "00000", KEYS[:20])
    write(tmp_path, "rgb", "00001", KEYS[20:])
    write(tmp_path, "depth", "00000", KEYS[:20:2])
    return tmp_path


def opened(root, *names, split="train", **more):
    given = SourceConfig(tokens=str(root / "tokens"), **more)
    if names:
        (root / "exclude.txt").write_text("".join(f"{name}\n" for name in names))
        given = SourceConfig(tokens=str(root / "tokens"), exclude=str(root / "exclude.txt"), **more)
    config = DataConfig(sources=(given,), cache=str(root / "cache"))
    (source,) = open_sources(config, split, ModalitySet.from_mapping(MODALITIES))
    return source


def keys(source):
    return source.keys(np.arange(source.num_samples))


def test_samples_are_left_out_and_the_others_keep_their_order_and_values(data):
    every, some = opened(data), opened(data, "00000/a3", "00001/a21", "00000/a4")
    left = {"00000/a3", "00001/a21", "00000/a4"}
    assert keys(some) == [key for key in keys(every) if key not in left]
    assert some.presence.num_samples == some.num_samples == 27
    held = some.gather(np.arange(27)).content
    values = {key: int(key.split("/a")[1]) for key in keys(some)}
    assert held["rgb"].padded()[:, 0].tolist() == list(values.values())
    has_depth = held["depth"].lengths > 0
    assert has_depth.sum() == 9
    assert held["depth"].padded()[has_depth, 0].tolist() == [
        value for key, value in values.items() if value % 2 and key.startswith("00000")
    ]


def test_every_epoch_draws_each_of_the_others_once(data):
    source = opened(data, "00000/a3", "00001/a21")
    order = SampleOrder([source.num_samples], [1.0], seed=4)
    for epoch in range(3):
        drawn = order(np.arange(28) + 28 * epoch).sample
        assert sorted(source.keys(drawn)) == sorted(keys(source))


def test_how_many_are_left_out_is_told_and_names_that_fit_nothing(data, caplog):
    caplog.set_level("INFO")
    opened(data, "00000/a3", "", "00000/a3")
    assert "leaves out 1 of" in caplog.text and "no sample" not in caplog.text
    caplog.clear()
    for _ in range(2):  # made, then found in the cache
        opened(data, "00000/a3", *(f"00009/a{i}" for i in range(5)))
        told = "no sample is called 00009/a0, 00009/a1, 00009/a2 and 2 more of its names"
        assert told in caplog.text
        caplog.clear()


def test_a_name_stands_for_all_crops_of_its_picture(tmp_path):
    cut = [f"a{i}{crop}" for i in range(4) for crop in ("", "~1", "~2")]
    root = tmp_path / "tokens" / "train"
    ids = ((key, "npy", write_npy(np.zeros(16, np.uint16))) for key in cut)
    write_shard(root / "rgb" / "00000.tar", ids)
    CropSettings(num_crops=3).write(root)
    source = opened(tmp_path, "00000/a1", "00000/a3~2")
    assert keys(source) == [f"00000/{key}" for key in cut if key[:2] != "a1" and key != "a3~2"]
    assert source.excluded == (4, ())


def test_where_keys_alone_are_joined_a_name_is_of_every_shard(data):
    source = opened(data, "elsewhere/a3", "a5", join="key")
    assert not {"00000/a3", "00000/a5"} & set(keys(source)) and source.num_samples == 28


def test_held_out_samples_of_the_same_names_stay(data):
    (data / "tokens" / "train").rename(data / "tokens" / "val")
    assert "00000/a3" in keys(opened(data, "00000/a3", split="val"))


def test_a_file_that_cannot_be_read_is_refused(data):
    for name, told in (("none.txt", "No such file"), ("", "Is a directory")):
        given = SourceConfig(tokens=str(data / "tokens"), exclude=str(data / name))
        config = DataConfig(sources=(given,), cache=str(data / "cache"))
        with pytest.raises(UserError, match=f"exclude: .*{told}.*fourm inspect --leaks"):
            open_sources(config, "train", ModalitySet.from_mapping(MODALITIES))
    (data / "binary").write_bytes(b"\xff\xfe\xfa")
    given = SourceConfig(tokens=str(data / "tokens"), exclude=str(data / "binary"))
    config = DataConfig(sources=(given,), cache=str(data / "cache"))
    with pytest.raises(UserError, match="it is no text"):
        open_sources(config, "train", ModalitySet.from_mapping(MODALITIES))


def test_excluding_all_is_one_sentence(data):
    with pytest.raises(UserError, match="is not excluded"):
        opened(data, *keys(opened(data)))
