"""Shards, columns and order: one bad sample costs itself and is listed; the order is a pure
function of (seed, draw).
"""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from worlds import write_project

from fourm.config import from_mapping, load
from fourm.data.columns import open_column
from fourm.data.npy import read_npy, write_npy
from fourm.data.opening import decoder_of
from fourm.data.order import Permutation, SampleOrder
from fourm.data.pictures import open_picture, to_rgb
from fourm.data.shards import DamageReport, read_shard, shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.modalities import ModalitySet
from fourm.raw.array import Array
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage
from fourm.raw.labels import Labels
from fourm.raw.normal import Normal
from fourm.raw.text import Text
from fourm.training.pretrain import PretrainConfig, pretrain


@pytest.fixture
def project(tmp_path):
    return write_project(tmp_path, num=40)


def source_of(project, max_damage=0.2, require=(), **kwargs):
    root = project.parent
    modalities = ModalitySet.load(root / "modalities.yaml")
    return Source(
        SourceConfig(tokens=str(root / "tokens"), raw=str(root / "raw"), require=require),
        "train",
        modalities,
        root / "cache",
        max_damage,
        **kwargs,
    )


def members(path):
    with tarfile.open(path) as tar:
        return [
            (i.name.split(".")[0], i.name.split(".")[1], tar.extractfile(i).read()) for i in tar
        ]


def test_a_truncated_shard_loses_its_tail_only_and_is_listed(project):
    shard = shard_path(project.parent / "tokens", "train", "rgb", 0)
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * 0.7)])
    source = source_of(project, max_damage=0.9)
    num_read = source.presence.of("rgb")
    assert 20 <= num_read < 40 and source.num_samples == 40
    listed = json.loads((project.parent / "cache" / "damage-tokens-train.json").read_text())
    assert any("ends early" in e["reason"] or "truncated" in e["reason"] for e in listed["entries"])
    assert len({e["key"] for e in listed["entries"]} - {"*"}) == 40 - num_read
    assert source.gather(np.array([0])).samples.tolist() == [0]


def test_a_key_missing_in_one_modality_leaves_the_sample_with_the_others(project):
    shard = shard_path(project.parent / "tokens", "train", "depth", 0)
    write_shard(shard, [m for m in members(shard) if m[0] != "00000007"])
    source = source_of(project)
    assert source.num_samples == 40 and source.keys(np.array([7])) == ["00000/00000007"]
    tokens = source.gather(np.arange(40)).content
    assert tokens["depth"].lengths.tolist() == [0 if i == 7 else 16 for i in range(40)]
    assert (tokens["rgb"].lengths == 16).all()
    assert not source.report.entries and source.presence.of("depth") == 39


def test_a_sample_that_lacks_what_is_required_is_left_out_and_is_no_damage(project):
    shard = shard_path(project.parent / "tokens", "train", "depth", 0)
    write_shard(shard, [m for m in members(shard) if m[0] != "00000007"])
    source = source_of(project, require=("depth",))
    assert source.num_samples == 39 and "00000/00000007" not in source.keys(np.arange(39))
    assert not source.report.entries and source.presence.num_samples == 40
    assert source_of(project, require="all").num_samples == 39
    assert source_of(project, require=("rgb",)).num_samples == 40
    with pytest.raises(ValueError, match="unknown modality 'dept'"):
        source_of(project, require=("dept",))


def test_columns_stay_aligned_when_keys_are_in_another_order(project):
    straight = source_of(project).gather(np.arange(40))
    shard = shard_path(project.parent / "tokens", "train", "depth", 0)
    write_shard(shard, reversed(members(shard)))
    turned = source_of(project).gather(np.arange(40))
    for name in ("depth", "rgb"):
        assert np.array_equal(straight.content[name].padded(), turned.content[name].padded())


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.zeros(16, np.float32), "integers"),
        (np.full(16, 999), "outside the vocabulary"),
        (np.zeros(9, np.int64), "9 ids where rgb has 16"),
    ],
)
def test_a_wrong_dtype_id_or_length_is_one_damaged_sample(project, array, reason):
    shard = shard_path(project.parent / "tokens", "train", "rgb", 0)
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_shard(
        shard, [(k, e, buffer.getvalue() if k == "00000003" else d) for k, e, d in members(shard)]
    )
    source = source_of(project)
    assert source.presence.of("rgb") == 39 and source.num_samples == 40
    at = source.keys(np.arange(40)).index("00000/00000003")
    assert source.gather(np.array([at])).content["rgb"].lengths == [0]
    assert any(reason in e.reason and e.key == "00000003" for e in source.report.entries)


def test_too_much_damage_stops_with_the_report_named(project):
    shard = shard_path(project.parent / "tokens", "train", "rgb", 0)
    write_shard(shard, [(k, e, b"not numpy" if int(k) < 20 else d) for k, e, d in members(shard)])
    with pytest.raises(
        ValueError, match=r"20 of 40 samples are damaged .*damage-tokens-train.json"
    ):
        source_of(project, max_damage=0.05)


def test_an_object_array_is_refused_not_unpickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="no readable numpy array"):
        read_npy(buffer.getvalue())


def test_shards_of_another_tokenizer_are_refused_with_what_to_do(project):
    with pytest.raises(
        ValueError, match=r"made-for-tests, the one in use is abc: tokenize the data again"
    ):
        source_of(project, fingerprints={"rgb": "abc"})


def test_the_cache_follows_the_shards(project):
    first = source_of(project).gather(np.arange(4)).content["rgb"].padded()
    shard = shard_path(project.parent / "tokens", "train", "rgb", 0)
    write_shard(shard, [(k, e, d) for k, e, d in members(shard)][:20])
    assert source_of(project, max_damage=0.9).presence.of("rgb") == 20
    assert np.array_equal(
        first, source_of(project, max_damage=0.9).gather(np.arange(4)).content["rgb"].padded()
    )


def test_several_modalities_in_one_tar_are_read(tmp_path):
    write_shard(
        tmp_path / "00000.tar",
        [("a", "depth.npy", b"1"), ("a", "rgb.npy", b"2"), ("b", "rgb.npy", b"3")],
    )
    read = list(
        read_shard(tmp_path / "00000.tar", lambda d, e: d, ("npy",), DamageReport(), member="rgb")
    )
    assert read == [("a", b"2"), ("b", b"3")]


def test_a_source_reads_tars_that_hold_several_modalities(project, tmp_path):
    """The same samples, one tar for all modalities: the same tokens."""
    separate = source_of(project)
    root = tmp_path / "joint"
    members = []
    keys = [f"{i:08d}" for i in range(separate.num_samples)]
    plain = separate.gather(np.arange(separate.num_samples))
    names = [m.name for m in separate.modalities if m.kind != "continuous"]
    for i, key in enumerate(keys):
        for name in names:
            ids = plain.content[name].padded()[i, : plain.content[name].lengths[i]]
            members.append((key, f"{name}.npy", write_npy(ids.astype(np.uint16))))
    write_shard(root / "train" / "00000.tar", members)
    modalities = ModalitySet(
        tuple(m for m in separate.modalities if m.kind != "continuous"),
        separate.modalities.tokenizers,
    )
    joint = Source(SourceConfig(tokens=str(root)), "train", modalities, tmp_path / "cache", 0.0)
    again = joint.gather(np.arange(joint.num_samples))
    assert joint.num_samples == separate.num_samples and set(joint.present) == set(names)
    for name in names:
        assert np.array_equal(again.content[name].padded(), plain.content[name].padded())


def test_the_same_input_gives_the_same_shard_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / f"{name}.tar", [("k", "npy", b"123")])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_gather_equals_reading_the_shard(project):
    source = source_of(project)
    m = source.modalities["caption"]
    shard = shard_path(project.parent / "tokens", "train", "caption", 0)
    direct = dict(read_shard(shard, decoder_of(m), ("npy",), DamageReport()))
    tokens = source.gather(np.array([5, 0, 39]))
    captions = tokens.content["caption"]
    for row, sample in enumerate((5, 0, 39)):
        assert (
            captions.padded()[row, : captions.lengths[row]].tolist()
            == direct[f"{sample:08d}"].tolist()
        )
    assert tokens.content["pixels"].padded().shape == (3, 16, 48)


def test_every_epoch_is_a_permutation_and_another_one():
    for num in (1, 2, 37, 1000):
        order = Permutation(num, seed=3)
        first, second = (order(np.full(num, epoch), np.arange(num)) for epoch in (0, 1))
        assert sorted(first) == sorted(second) == list(range(num))
        assert num < 30 or not np.array_equal(first, second)


def test_mixture_shares_hold_in_every_window():
    order = SampleOrder([100, 1000, 50], [0.6, 0.3, 0.1], seed=0)
    drawn = order(np.arange(20000))
    for size in (10, 100, 1000):
        for start in range(0, 19000, 777):
            counts = np.bincount(drawn.source[start : start + size], minlength=3)
            assert np.abs(counts - size * np.array([0.6, 0.3, 0.1])).max() <= 2.1
    small = drawn.sample[drawn.source == 2]
    assert sorted(small[:50]) == list(range(50))  # each pass over a source is a permutation


def test_a_mixture_whose_source_lacks_a_modality_trains(tmp_path):
    first, second = write_project(tmp_path / "a"), write_project(tmp_path / "b")
    import shutil

    import yaml

    for split in ("train", "val"):
        shutil.rmtree(tmp_path / "b" / "tokens" / split / "depth")
    config = yaml.safe_load(first.read_text())
    config["data"]["sources"] += yaml.safe_load(second.read_text())["data"]["sources"]
    first.write_text(yaml.safe_dump(config, sort_keys=False))
    assert pretrain(load(PretrainConfig, first, ["loop.steps=6"]))["loss"] > 0


def test_raw_values_round_trip():
    rng = np.random.default_rng(0)
    cases = [
        (RawImage(size=8), rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), 0),
        (Depth(size=8, range=(0, 10)), rng.random((8, 8), np.float32) * 10, 0.01),
        (Labels(size=8, classes=("a", "b")), rng.integers(0, 2, (8, 8)), 0),
        (Array(size=8, channels=2), rng.random((8, 8, 2), np.float32), 0),
    ]
    for spec, value, tolerance in cases:
        back = spec.read(spec.write(value), spec.extensions[0])
        assert np.abs(back.astype(float) - value.astype(float)).max() <= tolerance
    normal = rng.normal(size=(8, 8, 3)).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    spec = Normal(size=8)
    assert np.abs(spec.read(spec.write(normal), "png") - normal).max() < 0.005
    assert Text().read(Text().write("a café"), "txt") == "a café"


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_pictures_of_every_kind_become_upright_rgb():
    spec = RawImage(size=8)
    alpha = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    assert (spec.read(encoded(alpha, "PNG"), "png") == 255).all()  # transparent: white
    assert spec.read(encoded(Image.new("L", (9, 9), 7), "PNG"), "png").tolist()[0][0] == [
        7,
        7,
        7,
    ]
    assert spec.read(encoded(Image.new("CMYK", (9, 9)), "JPEG"), "jpg").shape == (8, 8, 3)
    deep = Image.fromarray(np.full((9, 9), 65535, np.uint16))
    assert (spec.read(encoded(deep, "PNG"), "png") == 255).all()
    turned = Image.new("RGB", (16, 8))
    turned.paste((255, 255, 255), (0, 0, 8, 8))
    exif = turned.getexif()
    exif[0x0112] = 6  # turn right
    upright = np.asarray(to_rgb(open_picture(encoded(turned, "PNG", exif=exif))))
    assert upright.shape == (16, 8, 3) and upright[0].mean() > 250 and upright[-1].mean() < 5


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x89PNG\r\n\x1a\n broken"])
def test_bytes_that_are_no_picture_are_one_clear_error(data):
    with pytest.raises(ValueError, match="no readable picture"):
        open_picture(data)


def test_a_truncated_picture_and_a_bomb_are_errors(monkeypatch):
    whole = encoded(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)),
        "PNG",
    )
    with pytest.raises(ValueError, match="no readable picture"):
        open_picture(whole[: len(whole) // 2])
    monkeypatch.setattr("fourm.data.pictures.MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        open_picture(whole)


def test_an_unknown_config_key_is_named_with_the_nearest_known_one(project):
    with pytest.raises(ValueError, match=r"unknown key 'weigth'; did you mean 'weight'"):
        from_mapping(SourceConfig, {"weigth": 1.0}, "x")
    with pytest.raises(ValueError, match=r"loop: unknown key 'step'; did you mean 'steps'"):
        load(PretrainConfig, project, ["loop.step=3"])
    with pytest.raises(ValueError, match="expected int, found 'many'"):
        load(PretrainConfig, project, ["loop.steps=many"])
    with pytest.raises(ValueError, match="no config file"):
        load(PretrainConfig, project.with_name("absent.yaml"))


def test_a_folder_without_shards_says_what_was_expected(tmp_path, project):
    modalities = ModalitySet.load(project.parent / "modalities.yaml")
    with pytest.raises(ValueError, match=r"no shards of any modality under .*expected"):
        Source(SourceConfig(tokens=str(tmp_path / "nowhere")), "train", modalities, tmp_path, 0.1)


def test_an_interrupted_cache_build_is_made_again(project, monkeypatch):
    m = ModalitySet.load(project.parent / "modalities.yaml")["rgb"]
    shards = [shard_path(project.parent / "tokens", "train", "rgb", 0)]
    calls = iter(range(1000))

    def fragile(data, extension):
        if next(calls) == 10:
            raise KeyboardInterrupt
        return decoder_of(m)(data, extension)

    with pytest.raises(KeyboardInterrupt):
        open_column(shards, fragile, ("npy",), "x", project.parent / "cache", DamageReport())
    assert (
        len(
            open_column(
                shards, decoder_of(m), ("npy",), "x", project.parent / "cache", DamageReport()
            )
        )
        == 40
    )
