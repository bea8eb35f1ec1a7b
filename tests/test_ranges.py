"""Ranges of numbers: found in the data, written where they are declared, kept within bounds of
memory.
"""

import json

import numpy as np
import pytest

from fourm.data.npy import write_npy
from fourm.data.pictures import write_png
from fourm.data.ranges import settle_ranges
from fourm.data.shards import shard_path, write_shard
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw import Spread, Tally
from fourm.raw.array import Array
from fourm.raw.depth import Depth
from fourm.raw.numbers import Numbers

S = 8


def shard(root, split, name, members):
    write_shard(shard_path(root / "raw", split, name, 0), members)


def maps(num, seed=0):
    """Values mostly in -500..3000, one sample with a stray."""
    rng = np.random.default_rng(seed)
    found = rng.uniform(-500, 3000, (num, S, S)).astype(np.float32)
    found[num // 2, 0, 0] = 1e9
    return found


# ---- ranges --------------------------------------------------------------------------------------

SET = """\
# mine
modalities:
  height:
    kind: grid
    raw: {type: array, size: 8, unit: m, range: auto}
    vocab_size: 4
    grid: [2, 2]
  place: {kind: sequence, raw: {type: numbers,
    range: auto}, vocab_size: 900, max_tokens: 4}  # latitude, longitude
  night: {kind: continuous, source: height, patch_size: 4}
"""


def planet(root, num=40):
    shard(root, "train", "height", ((f"{i}", "npy", write_npy(m)) for i, m in enumerate(maps(num))))
    places = [[-60 + 3.5 * i, -180 + 9.0 * i] for i in range(num)]
    shard(
        root,
        "train",
        "place",
        ((f"{i}", "json", json.dumps(p).encode()) for i, p in enumerate(places)),
    )
    (root / "m.yaml").write_text(SET)
    return root / "m.yaml"


def test_auto_becomes_a_range_in_the_file_which_keeps_all_else(tmp_path):
    config = planet(tmp_path)
    lines = settle_ranges(config, tmp_path / "raw")
    text = config.read_text()
    modalities = ModalitySet.load(config)
    low, high = modalities["height"].raw.bounds
    assert -510 <= low <= -490 and 2990 <= high <= 3100  # the stray does not count
    assert modalities["night"].raw == modalities["height"].raw
    assert modalities["place"].raw.range == ((-60.0, 77.0), (-180.0, 171.0))
    assert "# mine\n" in text and "# latitude, longitude" in text and "auto: 40 training" in text
    assert [line.partition(":")[0] for line in lines] == ["height", "place"]
    assert settle_ranges(config, tmp_path / "raw") == [] and config.read_text() == text
    config.write_text(SET)
    settle_ranges(config, tmp_path / "raw")
    assert config.read_text() == text


def test_a_range_that_cannot_be_found_is_one_sentence(tmp_path):
    config = tmp_path / "m.yaml"
    config.write_text(SET)
    with pytest.raises(UserError, match="modality height: range: auto is measured in .* no shards"):
        settle_ranges(config, tmp_path / "raw")
    flat = (("a", "npy", write_npy(np.full((S, S), 3.0))) for _ in range(1))
    shard(tmp_path, "train", "height", flat)
    with pytest.raises(
        UserError, match="height: range: auto: all its numbers are 3: say its range"
    ):
        settle_ranges(config, tmp_path / "raw")
    (tmp_path / "over.yaml").write_text("base: m.yaml\n")
    with pytest.raises(UserError, match="height takes `range: auto` from elsewhere"):
        settle_ranges(tmp_path / "over.yaml", tmp_path / "raw")
    with pytest.raises(UserError, match="'auto' and not measured yet: `fourm inspect"):
        Array(size=S, range="auto").to_floats(np.zeros((1, S, S, 1), np.float32))


def test_numbers_have_a_range_each_and_come_back():
    raw = Numbers(range=((-90.0, 90.0), (0.0, 1.0)))
    line = raw.to_text([45.0, 0.25], 1001)
    assert raw.from_text(line, 1001) == pytest.approx([45.0, 0.25], abs=0.1)
    assert raw.remark([45.0, 0.5]) is None and "number 1 outside" in str(raw.remark([45.0, 5000]))
    with pytest.raises(UserError, match="3 numbers where there are 2 ranges"):
        raw.check([1, 2, 3])
    with pytest.raises(UserError, match="must be finite"):
        Numbers().check([float("nan")])


def test_a_depth_picture_holds_parts_of_the_range_or_steps():
    stored = write_png(np.full((S, S), 2500, np.uint16))
    assert Depth(size=S, range=(0.0, 65.535)).read(stored, "png") == pytest.approx(2.5)
    assert Depth(size=S, range="auto", scale=0.001).read(stored, "png") == pytest.approx(2.5)
    eight = write_png(np.full((S, S), 51, np.uint8))
    assert Depth(size=S, range=(0.0, 10.0)).read(eight, "png") == pytest.approx(2.0)
    with pytest.raises(UserError, match="say scale, the units of a step"):
        Depth(size=S, range="auto").read(stored, "png")
    with pytest.raises(UserError, match="do not fit dtype float16"):
        Depth(size=S).write(np.full((S, S), 1e9, np.float32))


# ---- spread --------------------------------------------------------------------------------------


def test_the_spread_of_few_numbers_is_numpys_and_of_many_close_to_it():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=n) for n in rng.integers(1, 2000, 50)]
    spread = Spread()
    for i, part in enumerate(parts):
        spread.add(part, str(i))
    values = np.concatenate(parts)
    assert spread.percentiles([1, 50, 99]) == pytest.approx(np.percentile(values, [1, 50, 99]))
    assert (spread.low, spread.high) == (values.min(), values.max())
    assert parts[int(spread.low_key)].min() == values.min() and spread.num_values == len(values)
    assert spread.mean == pytest.approx(values.mean())


def test_a_spread_keeps_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr("fourm.raw._spread._MOST_KEPT", 4096)
    spread, rng = Spread(), np.random.default_rng(0)
    values = rng.normal(size=30_000)
    for i, part in enumerate(np.split(values, np.sort(rng.integers(0, 30_000, 300)))):
        spread.add(part, str(i))
        assert len(spread._kept) <= 4096
    assert np.array_equal(spread._kept, values[:: spread._every])
    assert spread.percentiles([50, 99]) == pytest.approx([0.0, 2.326], abs=0.15)


def test_of_endless_names_the_late_ones_are_counted_together(monkeypatch):
    monkeypatch.setattr("fourm.raw._spread._MOST_NAMES", 2)
    tally = Tally()
    for name in ("a", "b", "c", "a", "d"):
        tally.add({name: 1}, "key of " + name)
    assert tally.shares() == {"a": 0.4, "(others)": 0.4, "b": 0.2}
    assert tally.examples["(others)"] == "key of c"
