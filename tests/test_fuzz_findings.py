"""What ``python -m fuzz`` found, each a test that is named after what it was.

(Ghostscript that a picture starts, alias bombs, archives and headers that announce more than they
have are in ``tests/test_security.py``.)
"""

import io
import json
import tarfile
import wave

import numpy as np
import pytest
import yaml
from fourm_data_prep.download import read_addresses
from fourm_data_prep.tables import read_lines, read_table
from fourm_tokenizers.autoencoder import AutoencoderConfig
from fourm_tokenizers.picture import load_autoencoder
from PIL import Image as Pictures
from safetensors.numpy import save_file

from fourm.config import from_mapping
from fourm.data.chunks import Chunk, ChunkIndex, ChunkWriter
from fourm.data.npy import read_npy
from fourm.data.pictures import open_picture, to_rgb
from fourm.data.remote.listing import read_listing
from fourm.data.remote.published import parse as parse_published
from fourm.data.shards import DamageReport, read_shard
from fourm.data.tar_headers import members_of
from fourm.errors import UserError
from fourm.modalities import ModalitySet
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
from fourm.training.checkpoints import fault_of, read_state
from fourm.training.loop_config import LoopConfig
from fourm.weights import WeightFiles
from fourm.yaml_files import parse

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
        raw.to_text(value, 64)


def test_boxes_beyond_the_last_bin_are_drawn_at_once():
    box = Boxes().from_text("v0=999999999 v1=999999999 v2=999999999 v3=999999999 cube", 64)
    assert box == [{"box": [1.0] * 4, "label": "cube"}]
    Boxes().picture(box)


# ---- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["!!int ''", "!!float x", "!!bool x", "!!timestamp x"])
def test_a_tag_before_what_is_not_of_its_kind_is_a_sentence(value):
    with pytest.raises(UserError, match="f is not valid YAML"):
        parse(f"a: {value}", "f")


def test_a_kind_that_is_a_list_is_a_sentence():
    with pytest.raises(UserError, match="kind"):
        ModalitySet.from_mapping({"modalities": {"a": {"kind": [0], "raw": "text"}}}, "f")


def test_what_a_sentence_quotes_is_cut():
    with pytest.raises(UserError) as caught:
        from_mapping(SamplingOptions, {"x" * 10**6: 1}, "f")
    assert len(str(caught.value)) < 4000
    assert len(str(UserError("x" * 10**6))) < 4000


def test_plain_aliases_are_as_good_as_ever():
    text = yaml.safe_dump({"a": {"x": 1}})
    assert parse(text + "b: &b [1, 2]\nc: *b\n", "f") == {"a": {"x": 1}, "b": [1, 2], "c": [1, 2]}


def test_a_tokenizer_of_blocks_without_end_is_a_sentence():
    given = {"image_size": 16, "channels": 3, "patch_size": 4, "encoder_depth": 2**62}
    given["quantizer"] = {"type": "fsq", "levels": [4, 4]}
    with pytest.raises(UserError, match="encoder_depth is at most 1,000"):
        from_mapping(AutoencoderConfig, given, "f")


def test_a_training_of_tokens_without_end_is_a_sentence():
    given = {"total_tokens": float("inf"), "batch_size": 4}
    with pytest.raises(UserError, match="total_tokens must be finite"):
        from_mapping(LoopConfig, given, "f")


@pytest.mark.parametrize("levels", [[0, 4], [-1, 4], [1]])
def test_levels_that_hold_nothing_are_a_sentence(levels):
    given = {"image_size": 16, "channels": 3, "patch_size": 4}
    given["quantizer"] = {"type": "fsq", "levels": levels}
    with pytest.raises(UserError, match="levels must be at least 2"):
        from_mapping(AutoencoderConfig, given, "f")


@pytest.mark.parametrize("kind", [1, None, ["vq"]])
def test_a_tokenizer_whose_quantizer_has_no_name_is_a_sentence(kind, tmp_path):
    given = {"image_size": 16, "channels": 3, "patch_size": 4, "quantizer": {"type": kind}}
    (tmp_path / "config.json").write_text(json.dumps(given))
    with pytest.raises(UserError, match="quantizer"):
        load_autoencoder(tmp_path)


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "m\n"),
        ("b.jsonl", "-1\n"),
        ("c.jsonl", "[" * 100_000 + "\n"),
        ("d.csv", "url,caption\n" + '"' + "x" * 200_000 + '"\n'),
        ("e.csv", "url,caption\nx,1,2,3\n"),
    ],
)
def test_lists_of_addresses_that_are_none_are_a_sentence(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError):
        read_addresses(tmp_path / name)


def test_empty_lines_of_a_list_of_addresses_are_passed_over(tmp_path):
    (tmp_path / "a.tsv").write_text("http://x/1\tone\n\nhttp://x/2\ttwo\n")
    assert len(read_addresses(tmp_path / "a.tsv")) == 2


def test_texts_of_a_parquet_file_that_are_none_are_a_sentence(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    spoilt = pa.StringArray.from_buffers(
        1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\x80")
    )
    parquet.write_table(pa.table({"file": spoilt}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="cannot be read: 'utf-8'"):
        read_table(tmp_path / "t.parquet")


def test_a_line_nested_without_end_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"file": "a"}\n' + "[" * 100_000 + "\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 2, is not valid JSON"):
        read_lines(tmp_path / "a.jsonl")


# ---- folders -------------------------------------------------------------------------------------


def test_a_manifest_or_state_that_is_no_mapping_is_a_fault(tmp_path):
    for text in ("[1]", '"x"', "[" * 100_000, "3"):
        (tmp_path / "manifest.json").write_text(text)
        (tmp_path / "state.json").write_text(text)
        assert fault_of(tmp_path) == "manifest.json is missing or unreadable"
        with pytest.raises(UserError, match=r"state.json"):
            read_state(tmp_path)


def test_a_manifest_looks_at_no_file_outside_of_its_checkpoint(tmp_path):
    for name in ("../../etc/passwd", "9" * 5000):
        (tmp_path / "manifest.json").write_text(json.dumps({name: "x"}))
        assert fault_of(tmp_path) == f"{name} is missing"


@pytest.mark.parametrize("table", [None, [], {"a": 5}, {"a": ["x"]}, {}, "x", {"a": "9" * 5000}])
def test_an_index_of_weights_that_names_no_files_is_a_sentence(table, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": table}))
    with pytest.raises(UserError, match="is not an index of weight files"):
        WeightFiles.open(tmp_path)


@pytest.mark.parametrize("rows", ['{"a": 3}', '{"a": [null, 1]}', "[1]", '{"a": [0, 1, 2]}'])
def test_parts_that_say_not_which_rows_they_hold_are_a_sentence(rows, tmp_path):
    for i in (1, 2):
        name = f"model-0000{i}-of-00002.safetensors"
        save_file({"a": np.zeros((2, 2), np.float32)}, tmp_path / name, {"rows": rows})
    with pytest.raises(UserError, match="part"):
        WeightFiles.open(tmp_path)


@pytest.mark.parametrize("text", ["[]", "3", '{"version": 1, "files": []}', "[" * 100_000])
def test_an_index_of_a_chunk_that_is_no_mapping_is_a_sentence(text):
    with pytest.raises(UserError, match="^f"):
        ChunkIndex.from_json(text, "f")


# ---- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_samples", "num_elements", "length"])
@pytest.mark.parametrize("number", [-1, 2**63, 10**400, 1.5, "3"])
def test_an_index_of_a_chunk_of_more_samples_than_can_be_counted_is_a_sentence(
    key, number, tmp_path
):
    with ChunkWriter(tmp_path, {"described": "x"}) as writer:
        writer.add("00000/0", np.arange(3, dtype=np.uint16))
    index = json.loads((tmp_path / "index.json").read_text()) | {key: number}
    with pytest.raises(UserError, match="is damaged"):
        ChunkIndex.from_json(json.dumps(index), "index.json")


def test_an_index_of_a_chunk_that_knows_no_names_is_a_sentence(tmp_path):
    with ChunkWriter(tmp_path, {"described": "x"}) as writer:
        writer.add("00000/0", np.arange(3, dtype=np.uint16))
    index = json.loads((tmp_path / "index.json").read_text())
    del index["files"]["names.bin"]
    (tmp_path / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="is damaged"):
        _ = Chunk.open(tmp_path).names


@pytest.mark.parametrize("block_bytes", [0, -1, 1e999])
def test_a_published_folder_of_blocks_of_no_bytes_is_a_sentence(block_bytes):
    file = {"a": {"size": 3, "crc32": "00000000"}}
    index = {"version": 1, "block_bytes": block_bytes, "files": file}
    with pytest.raises(UserError, match="^f"):
        parse_published(json.dumps(index).encode(), "f")


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", ""])
def test_a_published_folder_has_no_files_outside_of_it(name):
    index = {"version": 1, "block_bytes": 9, "files": {name: {"size": 0, "crc32": ""}}}
    with pytest.raises(UserError, match="is no file of a folder"):
        parse_published(json.dumps(index).encode(), "f")


@pytest.mark.parametrize("line", ["x", "[]", '{"tar": "0.tar", "size": 5}', "[" * 100_000])
def test_a_damaged_listing_of_tars_is_a_sentence(line, tmp_path):
    (tmp_path / "members.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"publish|is not valid JSON|does not hold a mapping"):
        list(read_listing(tmp_path / "members.jsonl", [("http://x/0.tar", 5)]))


def test_a_listing_of_files_before_the_first_byte_is_a_sentence(tmp_path):
    listed = {"tar": "0.tar", "size": 5, "files": [["a", -512, 3]], "damage": ""}
    (tmp_path / "members.jsonl").write_text(json.dumps(listed) + "\n")
    with pytest.raises(UserError, match="is damaged"):
        list(read_listing(tmp_path / "members.jsonl", [("http://x/0.tar", 5)]))
