"""A bit that turns over in a chunk on the disk: training ends with one line that names file and
chunk, whatever was hit; what is whole, and chunks of before, are read as ever.
"""

import json
import pickle

import numpy as np
import pytest
import soak
from click.testing import CliRunner
from fourm_data_prep.commands.inspect import command
from remote_worlds import write_world

from fourm.cli import main
from fourm.data.chunks import Chunk, ChunkWriter
from fourm.data.columns import ChunkedColumn
from fourm.data.pages import PAGE
from fourm.data.rows import Damaged, align
from fourm.errors import UserError

NUM = 3_000


def sample(i: int, fixed: bool) -> np.ndarray:
    return (np.arange(20 if fixed else 1 + i % 40) * 7 + i).astype(np.uint16)


def column(root, fixed: bool, num_chunks: int = 3) -> ChunkedColumn:
    """``NUM`` samples of some ten pages in chunks; what was written before is opened again."""
    for number, part in enumerate(np.array_split(np.arange(NUM), num_chunks)):
        folder = root / f"{number:05d}.chunk"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            with ChunkWriter(folder, {}) as writer:
                for i in part.tolist():
                    writer.add(f"0/{i}", sample(i, fixed))
    return ChunkedColumn(tuple(Chunk.open(folder) for folder in sorted(root.glob("*.chunk"))))


def turn_a_bit(path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("fixed", [True, False])
def test_only_samples_of_the_damaged_page_are_refused_with_file_and_chunk(tmp_path, fixed):
    whole = column(tmp_path, fixed)
    chunk = whole.chunks[1]
    starts, lengths = chunk.locate(np.arange(len(chunk)))
    place = chunk.index.files["values.bin"].bytes // 2
    turn_a_bit(tmp_path / "00001.chunk" / "values.bin", place)
    page = place // PAGE
    hit = (starts * 2 < (page + 1) * PAGE) & ((starts + lengths) * 2 > page * PAGE)
    assert 10 < hit.sum() < len(hit) / 2
    held = column(tmp_path, fixed)
    first = len(whole.chunks[0])
    good = np.setdiff1d(np.arange(NUM), first + np.flatnonzero(hit))
    held.ragged(np.random.default_rng(0).permutation(good))
    for row in (first + np.flatnonzero(hit)).tolist():
        with pytest.raises(UserError) as found:
            held.ragged(np.array([5, row, -1]))
        assert "00001.chunk/values.bin is damaged between bytes " in str(found.value)
        assert f"{page * PAGE:,} and" in str(found.value) and "\n" not in str(found.value)


def test_every_bit_of_values_and_offsets_counts(tmp_path):
    rng = np.random.default_rng(1)
    column(tmp_path, False, 1)
    for name in ("values.bin", "offsets.bin"):
        path = tmp_path / "00000.chunk" / name
        size = path.stat().st_size
        for place in [0, PAGE - 1, PAGE, size - 1, *rng.integers(0, size, 12).tolist()]:
            turn_a_bit(path, place)
            with pytest.raises(UserError, match=f"00000.chunk/{name} is damaged between"):
                column(tmp_path, False, 1).ragged(np.arange(NUM))
            turn_a_bit(path, place)
    column(tmp_path, False, 1).ragged(np.arange(NUM))


def test_values_are_those_without_checks_and_chunks_of_before_are_read(tmp_path):
    rows = np.array([NUM - 1, 0, -1, 1_500, 1_500])
    for fixed in (True, False):
        root = tmp_path / str(fixed)
        column(root, fixed)
        for number in (0, 2):  # as releases before wrote them
            index = root / f"{number:05d}.chunk" / "index.json"
            told = json.loads(index.read_text())
            for name in [name for name in told["files"] if name.endswith(".crc32")]:
                del told["files"][name]
                (index.parent / name).unlink()
            index.write_text(json.dumps(told))
        held = column(root, fixed)
        found = held.ragged(rows)
        for place, i in enumerate(rows.tolist()):
            wanted = sample(i, fixed) if i >= 0 else np.zeros(0, np.uint16)
            values = found.take(np.full(len(wanted), place), np.arange(len(wanted)))
            assert values.tolist() == wanted.tolist()
        turn_a_bit(root / "00000.chunk" / "values.bin", 0)
        column(root, fixed).ragged(np.arange(10))  # not seen, as before
        turn_a_bit(root / "00001.chunk" / "values.bin", 0)
        with pytest.raises(UserError, match="00001.chunk"):
            column(root, fixed).ragged(np.arange(NUM))


def test_a_page_is_read_once_and_then_nothing_is_left_to_do(tmp_path, monkeypatch):
    held = column(tmp_path, True)
    held.ragged(np.arange(NUM))
    monkeypatch.setattr("fourm.data.pages.zlib", None)
    held.ragged(np.arange(NUM)[::-1])
    assert not held._pages_of_values.num_left and not held._pages_of_offsets.num_left


def test_a_bit_that_turns_over_in_the_table_of_rows_changes_no_sample(tmp_path, caplog):
    some = {"a": np.arange(0, NUM, 2), "b": np.arange(NUM)}
    columns = {}
    for name, kept in some.items():
        folder = tmp_path / name / "00000.chunk"
        folder.mkdir(parents=True)
        with ChunkWriter(folder, {}) as writer:
            for i in kept.tolist():
                writer.add(f"0/{i}", sample(i, True))
        columns[name] = ChunkedColumn((Chunk.open(folder),))

    def opened():
        return align(columns, [], tmp_path / "cache", Damaged())

    every = np.arange(NUM)
    wanted = opened()(every)
    assert wanted.max() == NUM - 1 and wanted.min() == -1
    (folder,) = (tmp_path / "cache").glob("rows-*[!k]")
    rng = np.random.default_rng(2)
    for name in ("rows.bin", "rows.sums", "index.json"):
        size = (folder / name).stat().st_size
        for place in [0, size - 1, *rng.integers(0, size, 10).tolist()]:
            turn_a_bit(folder / name, place)
            assert (opened()(every) == wanted).all()
            assert (opened()(every) == wanted).all()
    assert "rows.bin is damaged between bytes" in caplog.text and "made again" in caplog.text
    # others that have it open, one that has read a part of it, and what a worker is handed
    first, second = opened(), opened()
    handed = pickle.loads(pickle.dumps(first))
    first(every[:10])
    turn_a_bit(folder / "rows.bin", 2 * PAGE)
    assert all((held(every) == wanted).all() for held in (first, second, handed))
    assert len(pickle.dumps(first)) < (folder / "rows.bin").stat().st_size
    (folder / "rows.bin").unlink()
    assert (opened()(every) == wanted).all()


def test_damaged_keys_are_seen_where_they_are_joined(tmp_path):
    columns = {name: column(tmp_path / name, True) for name in "ab"}
    turn_a_bit(tmp_path / "b" / "00002.chunk" / "keys.bin", 77)
    columns["b"] = ChunkedColumn(columns["b"].chunks[1:])  # else keys are known to be alike
    with pytest.raises(UserError, match=r"b/00002.chunk/keys.bin is damaged \(its checksum"):
        align(columns, [], tmp_path / "cache", Damaged())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_meets_a_turned_bit_ends_with_one_line(tmp_path, capsys, workers):
    write_world(tmp_path / "world", 300, seed=0, splits=("train", "val"))
    config = soak.write_config(tmp_path, [str(tmp_path / "world")], 3)
    hit = sorted((tmp_path / "world" / "train").rglob("values.bin"))[0]
    turn_a_bit(hit, 9)
    with pytest.raises(SystemExit) as ending:
        main(["pretrain", str(config), f"loop.num_workers={workers}", "adaptive=null"])
    assert ending.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {hit} is damaged between bytes 0 and")


def test_inspect_verify_names_every_damaged_file_and_counts_the_rest(tmp_path):
    for name in "ab":
        column(tmp_path / "train" / name, True)
    given = ["--verify", str(tmp_path)]
    told = CliRunner().invoke(command, given)
    assert told.exit_code == 0 and "6 chunks" in told.output and "no damage" in told.output
    for name, file in (("a", "values.bin"), ("b", "names.bin")):
        turn_a_bit(tmp_path / "train" / name / "00001.chunk" / file, 3)
    (tmp_path / "train" / "b" / "00002.chunk" / "keys.bin").unlink()
    told = CliRunner().invoke(command, [*given, "--workers", "2"])
    *lines, _ = told.output.splitlines()
    for place, line in zip(("a/00001", "b/00001", "b/00002"), lines, strict=True):
        assert f"{place}.chunk" in line
    assert "3 of 6 chunks are damaged" in str(told.exception)


def test_verifying_what_holds_no_chunks_says_so(tmp_path):
    told = CliRunner().invoke(command, ["--verify", str(tmp_path)])
    assert told.exit_code and "holds no chunks" in str(told.exception)
