"""Patches of pictures: only those that masking chose are read, as bytes; the model's numbers are
those of whole pictures made into floats.
"""

import io

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.data import patches
from fourm.data.masked_batches import MaskedBatches
from fourm.data.npy import write_npy
from fourm.data.opening import to_vectors
from fourm.data.order import SampleOrder
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.image import Image as RawImage

SIZE, NUM = 16, 12
CODE = {"kind": "set", "raw": {"type": "array", "size": 2}, "vocab_size": 9, "max_tokens": 4}
MASKING = MaskingConfig(
    num_inputs=(3, 9),
    num_targets=(1, 4),
    components=(MaskingComponent(input_default=1.0, target_default=1.0),),
)


def pixels_of(**raw):
    raw = {"type": "image", "size": SIZE, **raw}
    pixels = {"kind": "continuous", "patch_size": 4, "raw": raw}
    return ModalitySet.from_mapping({"modalities": {"pixels": pixels, "code": CODE}})


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def random_picture(seed, size=SIZE):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((size, size), Image.Resampling.BICUBIC)


def write_pictures(root, files, extension="jpg"):
    members = [(f"{i:04d}", extension, data) for i, data in enumerate(files)]
    write_shard(shard_path(root / "raw", "train", "pixels", 0), members)
    return SourceConfig(raw=str(root / "raw"))


def open_source(root, files, modalities, extension="jpg"):
    return Source(
        write_pictures(root, files, extension), "train", modalities, root / "cache", max_damage=0.5
    )


def whole_vectors(files, m, extension="jpg"):
    """What the model projected when whole pictures were made into vectors."""
    stacked = np.stack([m.raw.read(data, extension) for data in files])
    floats = m.raw.to_floats(stacked)
    return rearrange(floats, "b (h p) (w q) c -> b (h w) (p q c)", p=m.patch_size, q=m.patch_size)


@pytest.mark.parametrize("raw", [{}, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}])
@pytest.mark.parametrize("kind, extension", [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_bytes_on_their_way_become_the_floats_of_whole_pictures(tmp_path, raw, kind, extension):
    modalities = pixels_of(**raw)
    files = [encoded(random_picture(i), kind) for i in range(NUM)]
    source = open_source(tmp_path, files, modalities, extension)
    batch = Masker(modalities, MASKING, 0)(source.gather(np.arange(NUM)), np.arange(NUM))
    given = batch.encoder.vectors["pixels"]
    assert given.values.dtype == torch.uint8
    sample = np.repeat(np.arange(NUM), batch.encoder.lengths)[given.rows]
    place = batch.encoder.places[given.rows]
    expected = whole_vectors(files, modalities["pixels"], extension)
    assert np.array_equal(given.floats().numpy(), expected[sample, place])
    assert np.array_equal(
        expected,
        to_vectors(
            np.stack([modalities["pixels"].raw.read(data, extension) for data in files]),
            modalities["pixels"],
        ),
    )


def test_patches_of_numbers_that_are_no_bytes_travel_as_floats(tmp_path):
    depth = {"type": "depth", "size": SIZE, "range": [0.0, 8.0]}
    entry = {"kind": "continuous", "patch_size": 4, "raw": depth}
    modalities = ModalitySet.from_mapping({"modalities": {"pixels": entry, "code": CODE}})
    m, rng = modalities["pixels"], np.random.default_rng(0)
    files = [m.raw.write(rng.random((SIZE, SIZE), np.float32) * 8) for _ in range(NUM)]
    source = open_source(tmp_path, files, modalities, "npy")
    taken = source.gather(np.arange(NUM)).content["pixels"].padded()
    assert taken.dtype == np.float32
    assert np.array_equal(taken, whole_vectors(files, m, "npy"))


def patches_of(source):
    return source._columns["pixels"].patches


def as_floats(taken, m):
    scale = m.raw.byte_scale[:, :1]
    return (taken.astype(np.float32) / scale[0] - scale[1]) / scale[2]


def test_pictures_stay_in_their_tars_but_for_few_lossless_ones(tmp_path, monkeypatch):
    modalities = pixels_of()
    m = modalities["pixels"]
    plain = [encoded(random_picture(i)) for i in range(NUM)]
    pngs = [encoded(random_picture(i), "PNG") for i in range(NUM)]
    grey = encoded(random_picture(0).convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(random_picture(0, 40).resize((40, 31)), exif=exif)
    cases = {
        "plain": (plain, "jpg", patches.FilePatches),
        "larger": ([*plain, encoded(random_picture(0, 2 * SIZE))], "jpg", patches.FilePatches),
        "grey": ([*plain, grey], "jpg", patches.FilePatches),
        "turned": ([*plain, turned], "jpg", patches.FilePatches),
        "lossless": (pngs, "png", patches.StoredPatches),
    }
    for name, (files, extension, kind) in cases.items():
        source = open_source(tmp_path / name, files, modalities, extension)
        assert isinstance(patches_of(source), kind), name
        taken = source.gather(np.arange(len(files))).content["pixels"].padded()
        assert np.array_equal(as_floats(taken, m), whole_vectors(files, m, extension))
    monkeypatch.setattr(patches, "MAX_STORED", NUM * SIZE * SIZE * 3 - 1)
    many = open_source(tmp_path / "many", pngs, modalities, "png")
    assert isinstance(patches_of(many), patches.FilePatches)
    taken = many.gather(np.arange(NUM)).content["pixels"].padded()
    assert np.array_equal(as_floats(taken, m), whole_vectors(pngs, m, "png"))


def test_a_file_of_pictures_takes_no_room_in_the_cache(tmp_path):
    files = [encoded(random_picture(i, 128)) for i in range(NUM)]
    open_source(tmp_path, files, pixels_of())
    cached = [p.stat().st_size for p in (tmp_path / "cache").rglob("*.bin")]
    assert sum(cached) < 100 * NUM < sum(map(len, files))


def test_a_changed_tar_is_listed_again_and_refused_by_who_opened_it_before(tmp_path):
    files = [encoded(random_picture(i, 48)) for i in range(NUM)]
    modalities = pixels_of()
    before = open_source(tmp_path, files, modalities)
    after = open_source(tmp_path, files[::-1], modalities)
    taken = after.gather(np.arange(NUM)).content["pixels"].padded()
    expected = whole_vectors(files[::-1], modalities["pixels"])
    assert np.array_equal(as_floats(taken, modalities["pixels"]), expected)
    with pytest.raises(UserError, match="has changed since its files were listed"):
        before.gather(np.arange(NUM)).content["pixels"].padded()


def test_pictures_of_which_nothing_was_chosen_are_not_decoded(tmp_path, monkeypatch):
    modalities = pixels_of()
    source = open_source(tmp_path, [encoded(random_picture(i)) for i in range(NUM)], modalities)
    decoded, read = [], RawImage.read_part
    monkeypatch.setattr(RawImage, "read_part", lambda *a: decoded.append(1) or read(*a))
    elements = source.gather(np.arange(NUM)).content["pixels"]
    elements.take(np.array([2, 2, 2, 7]), np.array([0, 3, 9, 1]))
    assert len(decoded) == 2


# ---- damaged files -------------------------------------------------------------------------------


def damaged_one(root, modalities, damaged=(3,), max_damage=0.5):
    """A source some of whose files are cut short, which their headers do not show."""
    files = [encoded(random_picture(i)) for i in range(NUM)]
    for i in damaged:
        files[i] = files[i][: len(files[i]) // 2]
    codes = [
        (f"{i:04d}", "npy", write_npy(np.full(4, i % 9, np.uint16))) for i in range(len(files))
    ]
    write_shard(shard_path(root / "tokens", "train", "code", 0), codes)
    write_pictures(root, files)
    config = SourceConfig(raw=str(root / "raw"), tokens=str(root / "tokens"))
    return Source(config, "train", modalities, root / "cache", max_damage)


def rows_of(batch, sample, modality=0):
    """What a sample gives: positions, ids and vectors of its rows."""
    ends = np.cumsum(batch.encoder.lengths)
    start, end = ends[sample] - batch.encoder.lengths[sample], ends[sample]
    vectors = batch.encoder.vectors["pixels"]
    own = (vectors.rows >= start) & (vectors.rows < end)
    ends = np.cumsum(batch.decoder.lengths)
    asked = slice(ends[sample] - batch.decoder.lengths[sample], ends[sample])
    return [
        batch.encoder.modality[start:end].tolist(),
        batch.encoder.position[start:end].tolist(),
        batch.encoder.token[start:end].tolist(),
        vectors.values[own].tolist(),
        batch.decoder.modality[asked].tolist(),
        batch.decoder.position[asked].tolist(),
        batch.decoder.target[asked].tolist(),
    ]


def test_a_damaged_picture_is_a_modality_that_its_sample_lacks_and_changes_no_other(
    tmp_path, caplog
):
    modalities = pixels_of()
    masker, samples = Masker(modalities, MASKING, 0), np.tile(np.arange(NUM), 2)
    whole = damaged_one(tmp_path / "whole", modalities, ())
    some = damaged_one(tmp_path / "some", modalities, (3, 8))
    draws = np.arange(len(samples))
    tokens = some.gather(samples)
    expected, batch = masker(whole.gather(samples), draws), masker(tokens, draws)
    assert expected.num_unreadable == 0
    for place, sample in enumerate(samples):
        if sample not in (3, 8):
            assert rows_of(batch, place) == rows_of(expected, place)
        else:
            assert 0 not in rows_of(batch, place)[0]  # pixels are modality 0
    lacking = tokens.without("pixels", np.flatnonzero(np.isin(samples, (3, 8))))
    assert all(rows_of(masker(lacking, draws), i) == rows_of(batch, i) for i in draws)
    pictures_met = {i for i in draws if samples[i] in (3, 8) and 0 in rows_of(expected, i)[0]}
    assert batch.num_unreadable == len(pictures_met)
    assert len([r for r in caplog.records if "0003" in r.getMessage()]) == 1
    assert "the sample goes without" in caplog.text
    again = masker(some.gather(samples), draws)
    assert all(rows_of(again, i) == rows_of(batch, i) for i in draws)


def test_damaged_pictures_of_one_source_leave_those_of_others(tmp_path):
    modalities = pixels_of()
    sources = [
        damaged_one(tmp_path / "a", modalities, (3,)),
        damaged_one(tmp_path / "b", modalities, (5,)),
    ]
    order = SampleOrder([NUM, NUM], [1.0, 1.0], seed=0)
    batches = MaskedBatches(sources, order, Masker(modalities, MASKING, 0), 48, 1, 0, 1)
    (batch,) = batches[0]
    drawn = order(np.arange(48))
    has = [0 in rows_of(batch, i)[0] for i in range(48)]
    broken = (drawn.source == 0) & (drawn.sample == 3) | (drawn.source == 1) & (drawn.sample == 5)
    assert broken.sum() >= 2 and not any(np.array(has)[broken]) and sum(has) > 30


def test_too_many_damaged_pictures_stop_the_run_with_one_sentence(tmp_path):
    modalities = pixels_of()
    source = damaged_one(tmp_path, modalities, range(NUM), max_damage=0.05)
    with pytest.raises(UserError, match="pictures are damaged .last: pixels 00000/0005: .*inspect"):
        Masker(modalities, MASKING, 0)(source.gather(np.arange(NUM)), np.arange(NUM))


def test_sources_of_several_kinds_are_mixed_in_the_order_of_draws(tmp_path):
    """JPEG files beside stored pixels: each row of a batch has its own sample's bytes."""
    modalities = pixels_of()
    jpegs = [encoded(random_picture(i)) for i in range(NUM)]
    pngs = [encoded(random_picture(100 + i), "PNG") for i in range(NUM)]
    sources = [
        open_source(tmp_path / "a", jpegs, modalities),
        open_source(tmp_path / "b", pngs, modalities, "png"),
    ]
    order = SampleOrder([NUM, NUM], [1.0, 1.0], seed=0)
    batches = MaskedBatches(sources, order, Masker(modalities, MASKING, 0), 16, 1, 0, 1)
    draws = np.arange(16)
    drawn, merged = order(draws), batches.tokens(draws).content["pixels"].padded()
    assert {0, 1} == set(drawn.source.tolist())
    for row, (source, sample) in enumerate(zip(drawn.source, drawn.sample, strict=True)):
        alone = sources[source].gather(np.array([sample])).content["pixels"].padded()[0]
        assert np.array_equal(merged[row], alone)
