"""The part of a file that a sample shows is what its raw type makes of the whole picture: the same
pixels from any kind of file, with either decoder, and nearly those where a JPEG is decoded smaller.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fourm.data import picture_parts
from fourm.data.crops import Crop, crops_of
from fourm.data.picture_parts import read_part
from fourm.errors import UserError
from fourm.raw.depth import Depth
from fourm.raw.image import Image as RawImage

SIZE = 16
PHOTOGRAPHS = sorted((Path(__file__).parent / "data" / "photographs").glob("*.jpg"))
ORIENTATION = 0x0112


def plainly(raw, data, crop):
    """The reference: the whole picture decoded, then cut."""
    if crop is None:
        return raw.read(data, "jpg")
    return raw.cut(raw.read(data, "jpg", native=True), crop)


def encoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def smooth(width, height, seed):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


SIDES = st.integers(SIZE // 2, 4 * SIZE - 1)  # of which nothing is decoded smaller
KINDS = st.sampled_from(
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "JPEG", {"keep_rgb": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "WEBP", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
        ("I;16", "PNG", {}),
    ]
)


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, KINDS, st.integers(0, 9), st.booleans(), st.integers(0, 1000))
def test_a_part_has_the_pixels_that_the_raw_type_reads_and_cuts(
    width, height, kind, orientation, with_simplejpeg, seed
):
    mode, file_format, options = kind
    picture = smooth(width, height, seed)
    picture = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
    if orientation and file_format != "PNG":
        options = {**options, "exif": turned(orientation)}
    data, raw = encoded(picture, file_format, **options), RawImage(size=SIZE)
    with pytest.MonkeyPatch.context() as patched:
        if not with_simplejpeg:
            patched.setattr(picture_parts, "simplejpeg", None)
        for crop in (None, *crops_of(str(seed), 3, flip=True)):
            assert np.array_equal(raw.read_part(data, "jpg", crop), plainly(raw, data, crop))


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
@pytest.mark.parametrize("shrunk", [4, 5, 8, 15])
def test_a_jpeg_decoded_smaller_is_within_45_db_of_the_whole(
    path, shrunk, orientation, monkeypatch
):
    raw = RawImage(size=64)
    side = 64 * shrunk
    large = Image.open(path).resize((side + 33, side), Image.Resampling.LANCZOS)
    data = encoded(large, quality=92, exif=turned(orientation))
    crops = (None, Crop(), Crop(0.0, 0.1, 4 / shrunk if shrunk > 4 else 1.0, True))
    for crop in crops:
        found, expected = read_part(data, 64, crop), plainly(raw, data, crop)
        assert not np.array_equal(found, expected)
        assert psnr(found, expected) > 45
        assert np.abs(found.astype(int) - expected).mean() < 1.0
    fast = [read_part(data, 64, crop) for crop in crops]
    monkeypatch.setattr(picture_parts, "simplejpeg", None)
    assert all(
        np.array_equal(one, read_part(data, 64, crop))
        for one, crop in zip(fast, crops, strict=True)
    )


def test_what_is_no_picture_cut_short_or_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    data = encoded(smooth(40, 30, 0))
    for damaged in (b"", b"\xff\xd8\xff", data[: len(data) // 2], data[:30], b"GIF89a"):
        with pytest.raises(UserError, match="no readable picture"):
            read_part(damaged, SIZE, None)
    monkeypatch.setattr("fourm.data.pictures.MAX_PIXELS", 1000)
    monkeypatch.setattr(picture_parts, "simplejpeg", None)
    monkeypatch.setattr(Image.Image, "load", lambda picture: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match="40 x 30 pixels is too large"):
        read_part(data, SIZE, Crop())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_any_bytes_are_a_picture_or_a_user_error(kind):
    whole, rng = encoded(smooth(70, 60, 0), kind, exif=turned(6)), np.random.default_rng(1)
    for i in range(600):
        data = bytearray(whole)
        for at in rng.integers(0, [80, 400, len(data)][i % 3], 4):
            data[min(at, len(data) - 1)] = rng.integers(0, 256)
        for crop in (None, Crop(0.1, 0.1, 0.5)):
            with contextlib.suppress(UserError):
                assert read_part(bytes(data), SIZE, crop).shape == (SIZE, SIZE, 3)
    tail = bytearray(whole)
    place = tail.find(b"MM\x00*") if kind == "WEBP" else -1
    if place > 0:  # EXIF that is none
        tail[place] = ord("X")
        with pytest.raises(UserError, match="no readable picture"):
            RawImage(size=SIZE).read(bytes(tail), "webp")


def test_types_that_are_no_colour_pictures_read_a_part_as_they_cut_it():
    depth = Depth(size=SIZE, range=(0.0, 1.0))
    data = Depth(size=40).write(np.random.default_rng(0).random((40, 40), np.float32))
    crop = Crop(0.1, 0.2, 0.5, True)
    expected = depth.cut(depth.read(data, "npy", native=True), crop)
    assert np.array_equal(depth.read_part(data, "npy", crop), expected)
    assert np.array_equal(depth.read_part(data, "npy", None), depth.read(data, "npy"))
