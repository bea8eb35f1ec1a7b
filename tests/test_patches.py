"""Patches of pictures: only those that masking chose are read, as bytes; the model's numbers are
those of whole pictures made into floats.
"""

import io

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from fourm.data import patches, pictures
from fourm.data.order import SampleOrder
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import MaskedBatches, Source, SourceConfig, to_vectors
from fourm.masking import Masker, MaskingComponent, MaskingConfig
from fourm.modalities import ModalitySet

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


def test_a_column_keeps_files_only_where_all_are_plain_pictures_of_the_size(tmp_path):
    modalities = pixels_of()
    plain = [encoded(random_picture(i)) for i in range(NUM)]
    grey = encoded(random_picture(0).convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(random_picture(0), exif=exif)
    cases = {
        "plain": (plain, "jpg", True),
        "larger": ([*plain, encoded(random_picture(0, 2 * SIZE))], "jpg", False),
        "grey": ([*plain, grey], "jpg", False),
        "turned": ([*plain, turned], "jpg", False),
        "lossless": ([encoded(random_picture(i), "PNG") for i in range(NUM)], "png", False),
    }
    for name, (files, extension, is_encoded) in cases.items():
        source = open_source(tmp_path / name, files, modalities, extension)
        assert source._columns["pixels"].pictures.is_encoded == is_encoded, name
        taken = source.gather(np.arange(len(files))).content["pixels"].padded()
        expected = whole_vectors(files, modalities["pixels"], extension)
        scale = modalities["pixels"].raw.byte_scale[:, :1]
        assert np.array_equal((taken.astype(np.float32) / scale[0] - scale[1]) / scale[2], expected)


def test_a_damaged_file_is_listed_when_the_column_is_made(tmp_path):
    files = [encoded(random_picture(i)) for i in range(NUM)]
    files[3] = files[3][: len(files[3]) // 2]
    source = open_source(tmp_path, files, pixels_of())
    assert source.num_samples == NUM - 1 and source._columns["pixels"].pictures.is_encoded
    assert {e.key for e in source.report.entries} == {"0003"}


def test_a_column_of_before_is_used_as_it_is(tmp_path, monkeypatch):
    modalities = pixels_of()
    files = [encoded(random_picture(i)) for i in range(NUM)]
    with monkeypatch.context() as patched:  # as it was made up to release 0.5
        patched.setattr("fourm.data.store._has_bytes", lambda m: False)
        assert not open_source(tmp_path, files, modalities)._columns["pixels"].pictures.is_encoded
    kept = Source(
        SourceConfig(raw=str(tmp_path / "raw")), "train", modalities, tmp_path / "cache", 0
    )
    assert not kept._columns["pixels"].pictures.is_encoded


@pytest.mark.parametrize("options", [{}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_both_decoders_give_the_same_pixels(monkeypatch, options):
    pytest.importorskip("simplejpeg")
    data = encoded(random_picture(5, 64), **options)
    fast = pictures.decode_rgb(data)
    monkeypatch.setattr(pictures, "simplejpeg", None)
    assert np.array_equal(fast, pictures.decode_rgb(data))


def test_pictures_of_which_nothing_was_chosen_are_not_decoded(tmp_path, monkeypatch):
    modalities = pixels_of()
    decoded = []
    decode = patches.decode_rgb
    monkeypatch.setattr(patches, "decode_rgb", lambda data: decoded.append(1) or decode(data))
    source = open_source(tmp_path, [encoded(random_picture(i)) for i in range(NUM)], modalities)
    elements = source.gather(np.arange(NUM)).content["pixels"]
    elements.take(np.array([2, 2, 2, 7]), np.array([0, 3, 9, 1]))
    assert len(decoded) == 2


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
