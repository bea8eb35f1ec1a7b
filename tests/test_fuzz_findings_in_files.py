"""What ``python -m fuzz`` found in files that describe others, each a test that is named after
what it was: settings, tables, checkpoints, folders, listings.
"""

import json

import numpy as np
import pytest
import yaml
from fourm_data_prep.download import read_addresses
from fourm_data_prep.tables import read_lines, read_table
from fourm_tokenizers.autoencoder import AutoencoderConfig
from fourm_tokenizers.picture import load_autoencoder
from safetensors.numpy import save_file

from fourm.config import from_mapping
from fourm.data.chunks import Chunk, ChunkIndex, ChunkWriter
from fourm.data.remote.listing import read_listing
from fourm.data.remote.published import parse as parse_published
from fourm.errors import UserError
from fourm.files.weights import WeightFiles
from fourm.files.yaml_files import parse
from fourm.modalities import ModalitySet
from fourm.sampling.options import SamplingOptions
from fourm.training.checkpoints import fault_of, read_state
from fourm.training.loop_config import LoopConfig

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


def test_a_column_s_name_of_two_lines_is_told_on_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b'"a\nb",c\n1,2\n')
    with pytest.raises(UserError, match="it has a b, c$"):
        read_table(path)
