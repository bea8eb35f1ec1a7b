"""What ``python -m fuzz`` found in data, each a test that is named after what it was: tars,
arrays, pictures, sounds, values. (Alias bombs, archives and headers that announce more than they
have are in ``tests/test_hostile_files.py``.)
"""

import io
import tarfile
import wave

import numpy as np
import pytest
from PIL import Image as Pictures

from fourm.data.npy import read_npy
from fourm.data.pictures import open_picture, to_rgb
from fourm.data.shards import DamageReport, read_shard
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.raw.array import Array
from fourm.raw.audio import Audio
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.instances import Instances
from fourm.raw.metadata import Metadata
from fourm.raw.numbers import Numbers
from fourm.raw.palette import Palette
from fourm.raw.poses import Poses
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm.sampling.options import SamplingOptions

# ---- tars ----------------------------------------------------------------------------------------


def header(size: bytes, kind: bytes = b"0", name: str = "a.txt") -> bytes:
    """A header whose size is any text, with the checksum that goes with it."""
    made = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
    made[124:136], made[156:157], made[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def test_a_negative_size_does_not_lead_back_to_its_own_header_for_ever(tmp_path):
    for size in (b"-1000", b"-2000"):
        (tmp_path / "0.tar").write_bytes(header(size) + bytes(1024))
        with pytest.raises(UserError, match="announces -"):
            list(members_of(tmp_path / "0.tar"))
        report = DamageReport()
        assert not list(read_shard(tmp_path / "0.tar", Text().read, ("txt",), report))
        assert "ends early" in report.entries[0].reason


@pytest.mark.parametrize(
    "record", [b"14 size=-5120\n", b"11 size=x1\n", b"3 size=100\n", b"0 a=b\n"]
)
def test_a_size_in_an_extended_header_that_is_none_is_a_sentence(record, tmp_path):
    extended = header(b"%o" % len(record), b"x") + record.ljust(512, b"\0")
    (tmp_path / "0.tar").write_bytes(extended + header(b"3") + b"one".ljust(512, b"\0"))
    with pytest.raises(UserError, match=r"announces no number|is damaged"):
        list(members_of(tmp_path / "0.tar"))


def test_maps_of_sparse_files_that_are_no_numbers_end_a_shard_and_nothing_else(tmp_path):
    info = tarfile.TarInfo("a.txt")
    info.pax_headers = {"GNU.sparse.map": "x,y", "GNU.sparse.size": "9"}
    (tmp_path / "0.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT))
    report = DamageReport()
    assert not list(read_shard(tmp_path / "0.tar", Text().read, ("txt",), report))
    assert "sparse file" in report.entries[0].reason


# ---- arrays, pictures, sounds --------------------------------------------------------------------


def npy(text: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + data


@pytest.mark.parametrize(
    "data",
    [
        npy(b"{'descr': '<f8', 'shape': (1,"),  # of which the tokenizer of Python finds no end
        npy(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        npy(b"(" * 3000),
        npy(b"{'descr': [('a', 'x')], 'fortran_order': False, 'shape': (1,), }"),
        b"PK\x03\x04" + bytes(40),
    ],
)
def test_headers_of_arrays_that_are_no_expressions_are_a_sentence(data):
    with pytest.raises(UserError, match="no readable numpy array"):
        read_npy(data)
    for extension in ("npy", "npz"):
        with pytest.raises(UserError, match=r"no readable (numpy array|archive)"):
            Vectors(channels=3).read(data, extension)


def test_an_archive_under_the_name_of_an_array_and_the_other_way_round():
    archive, array = io.BytesIO(), io.BytesIO()
    np.savez(archive, emb=np.ones((2, 3), np.float32))
    np.save(array, np.ones((2, 3), np.float32))
    with pytest.raises(UserError, match="no readable numpy array"):
        Depth(size=8).read(archive.getvalue(), "npy")
    with pytest.raises(UserError, match="no readable archive"):
        Vectors(channels=3).read(array.getvalue(), "npz")


def test_a_mask_of_another_length_than_its_embedding_is_a_sentence():
    archive = io.BytesIO()
    np.savez(archive, emb=np.ones((2, 3), np.float32), mask_valid=np.ones(4))
    with pytest.raises(UserError, match=r"mask_valid has shape \(4,\)"):
        Vectors(channels=3).read(archive.getvalue(), "npz")


def test_arrays_in_columns_are_read_as_they_were_written():
    stored = io.BytesIO()
    np.save(stored, np.asfortranarray(np.arange(6).reshape(2, 3)))
    assert read_npy(stored.getvalue()).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("value", [[[1], [2, 3]], "x", [["a", 1]], [10**400], None])
def test_lists_of_different_lengths_are_no_arrays(value):
    for raw in (Array(size=2), Vectors(channels=2), Audio(rate=8000)):
        with pytest.raises(UserError):
            raw.check(raw.accept(value))


def wav(width: int, rate: int) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as stored:
        stored.setparams((1, min(width, 4), 8000, 0, "NONE", ""))
        stored.writeframes(bytes(16))
    data = bytearray(out.getvalue())
    data[24:28], data[34:36] = rate.to_bytes(4, "little"), (8 * width).to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize(("width", "rate"), [(8, 8000), (5, 8000), (2, 0)])
def test_sounds_of_no_rate_or_of_64_bits_are_a_sentence(width, rate):
    with pytest.raises(UserError, match="is no sound"):
        Audio(rate=8000).read(wav(width, rate), "wav")


def test_a_sound_whose_chunks_lead_out_of_it_is_a_sentence():
    data = wav(2, 8000)
    broken = data[:16] + (2**31 - 1).to_bytes(4, "little") + data[20:]
    with pytest.raises(UserError, match="no readable wav file"):
        Audio(rate=8000).read(broken, "wav")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16", "P", "RGBA"])
def test_pictures_of_all_modes_and_kinds_that_data_have_are_read(kind, mode):
    buffer = io.BytesIO()
    try:
        Pictures.new("RGB", (5, 4), "red").convert(mode).save(buffer, kind)
    except (OSError, ValueError):
        pytest.skip("a mode that this kind has not")
    assert to_rgb(open_picture(buffer.getvalue())).mode == "RGB"


# ---- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [Numbers(), Palette(), Boxes(), Instances(), Poses(), Metadata()])
def test_brackets_in_each_other_by_the_thousand_are_no_value(raw):
    with pytest.raises(UserError, match=r"is not valid JSON: (it is nested too deeply|Expecting)"):
        raw.read(b"[" * 100_000, "json")


@pytest.mark.parametrize("instances", [0.5, None, {"a": 1}, "x"])
def test_instances_of_a_point_that_are_no_list_are_a_sentence(instances):
    with pytest.raises(UserError, match="must be a list"):
        Instances().to_text({"points": [{"at": [1, 2], "instances": instances}]}, 64)


def test_numbers_of_metadata_that_are_spelled_as_text_are_numbers():
    value = Metadata().read(b'{"original_height": "1e3", "brightness": "300"}', "json")
    assert Metadata().remark(value) == "brightness outside of the range"
    assert Metadata().measured(value)["original_height"] == 1000.0


def test_numbers_that_no_float_holds_are_a_sentence_of_bounded_length():
    with pytest.raises(UserError, match="must be a number") as caught:
        Numbers().check([10**4000])
    assert len(str(caught.value)) < 200
    with pytest.raises(UserError, match="scale: .* is too large"):
        SamplingOptions.read({"guidance_scale": 10**400}, "f")


@pytest.mark.parametrize("raw", [Numbers(), Palette(), Boxes(), Instances(), Poses(), Metadata()])
def test_coordinates_of_5000_digits_that_a_model_spells_are_passed_over(raw):
    for axis in range(4):
        value = raw.from_text(f"human point v{axis}={'9' * 5000} v1=3 polygon", 64)
        assert len(raw.to_text(value, 64)) < 500


def test_boxes_beyond_the_last_bin_are_drawn_at_once():
    box = Boxes().from_text("v0=999999999 v1=999999999 v2=999999999 v3=999999999 cube", 64)
    assert box == [{"box": [1.0] * 4, "label": "cube"}]
    Boxes().picture(box)
