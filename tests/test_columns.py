"""Columns: samples joined by key whatever they lack, in bounded memory, made by one process a
machine; what is damaged is said so.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from worlds import write_project

from fourm.data import rows as rows_module
from fourm.data.chunks import Chunk, ChunkWriter
from fourm.data.columns import ChunkedColumn
from fourm.data.keys import keys_of
from fourm.data.once import make_once
from fourm.data.rows import Damaged, Presence, align
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import ModalitySet


def chunk(folder, names, lengths=None, seed=0) -> Chunk:
    """A chunk of random ids, 4 of each sample unless lengths are given."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lengths = [4] * len(names) if lengths is None else lengths
    with ChunkWriter(folder, {"described": "test"}) as writer:
        for name, length in zip(names, lengths, strict=True):
            writer.add(name, rng.integers(0, 100, length).astype(np.uint16))
    return Chunk.open(folder)


def column(folder, names, num_chunks=1, **kwargs) -> ChunkedColumn:
    parts = np.array_split(np.array(names), num_chunks)
    return ChunkedColumn(
        tuple(chunk(folder / str(i), p.tolist(), seed=i, **kwargs) for i, p in enumerate(parts))
    )


def join_of(columns: dict[str, list[str]], require: list[str]) -> list[list[int]]:
    """The slow, obvious way: the row of each sample in each column, -1 where it lacks one."""
    order = dict.fromkeys(name for names in columns.values() for name in names)
    places = [{name: row for row, name in enumerate(names)} for names in columns.values()]
    lines = [[place.get(name, -1) for place in places] for name in order]
    at = [list(columns).index(name) for name in require]
    return [line for line in lines if all(line[i] >= 0 for i in at)]


def ragged_names(seed, num=300, share=0.3) -> dict[str, list[str]]:
    """Names of three modalities, of which each lacks some, in orders of their own."""
    rng = np.random.default_rng(seed)
    names = np.array([f"{i // 50:05d}/{i}" for i in range(num)])
    held = {m: names[rng.random(num) > share] for m in ("a", "b", "c")}
    return {m: (rng.permutation(kept) if m == "c" else kept).tolist() for m, kept in held.items()}


@pytest.mark.parametrize("require", [[], ["b"], ["a", "b", "c"]])
@pytest.mark.parametrize("part", [1 << 21, 16])
def test_the_join_is_that_of_the_slow_obvious_way(tmp_path, monkeypatch, require, part):
    monkeypatch.setattr(rows_module, "_PART", part)
    names = ragged_names(seed=part)
    columns = {m: column(tmp_path / m, held, num_chunks=3) for m, held in names.items()}
    rows = align(columns, require, tmp_path / "cache", Damaged())
    wanted = join_of(names, require)
    assert rows(np.arange(rows.num_samples)).tolist() == wanted
    everything = np.array(join_of(names, [])) >= 0
    together = everything.T.astype(int) @ everything.astype(int)
    assert rows.presence == Presence(
        ("a", "b", "c"),
        len(everything),
        len(wanted),
        int(everything.all(1).sum()),
        tuple(map(tuple, together.tolist())),
    )


def test_the_order_is_the_first_columns_and_then_what_later_ones_bring(tmp_path):
    names = {"a": ["0/1", "0/0", "0/5"], "b": ["0/9", "0/5", "0/7"], "c": ["0/8", "0/7", "0/0"]}
    columns = {m: column(tmp_path / m, held) for m, held in names.items()}
    rows = align(columns, [], tmp_path / "cache", Damaged())
    lines = rows(np.arange(6)).tolist()
    assert lines == [[0, -1, -1], [1, -1, 2], [2, 1, -1], [-1, 0, -1], [-1, 2, 1], [-1, -1, 0]]


def test_columns_with_equal_keys_need_no_table_however_they_are_cut_into_chunks(tmp_path):
    names = [f"0/{i}" for i in range(100)]
    columns = {"a": column(tmp_path / "a", names), "b": column(tmp_path / "b", names)}
    assert align(columns, [], tmp_path / "cache", Damaged()).table is None
    assert not (tmp_path / "cache").exists()
    columns["c"] = column(tmp_path / "c", names, num_chunks=3)
    rows = align(columns, [], tmp_path / "cache", Damaged())
    assert rows.table is None and rows.num_samples == 100
    assert rows(np.array([7, 3])).tolist() == [[7] * 3, [3] * 3]


def test_two_in_a_thousand_missing_in_each_column_cost_no_other_sample(tmp_path):
    names = ragged_names(seed=1, num=20_000, share=0.002)
    columns = {m: column(tmp_path / m, held, num_chunks=2) for m, held in names.items()}
    rows = align(columns, [], tmp_path / "cache", Damaged())
    wanted = join_of(names, [])
    assert 19_990 < len(wanted) <= 20_000  # but those that no column holds
    assert 0.99 < rows.presence.num_complete / len(wanted) < 1
    assert rows(np.arange(rows.num_samples)).tolist() == wanted


@dataclass
class Made:
    """A column of given keys."""

    hashes: np.ndarray
    names: list[str]

    @property
    def num_samples(self):
        return len(self.names)

    @property
    def keys_id(self):
        return str(self.hashes.tolist())

    def key_blocks(self):
        yield self.hashes

    def name(self, row):
        return self.names[row]


def test_keys_of_equal_first_64_bits_are_two_samples(tmp_path):
    first = np.array([[7, 1], [7, 2], [9, 1]], np.uint64)
    second = np.array([[7, 2], [7, 3], [9, 1]], np.uint64)
    names = ["0/x", "0/y", "0/z"]
    columns = {"a": Made(first, names), "b": Made(second, names)}
    rows = align(columns, [], tmp_path, Damaged())  # pyright: ignore[reportArgumentType]
    assert rows(np.arange(4)).tolist() == [[0, -1], [1, 0], [2, 2], [-1, 1]]


@pytest.mark.parametrize(
    "names, found", [(["0/x", "0/x"], "the sample 0/x twice"), (["0/x", "0/y"], "of one hash, 0/x")]
)
def test_a_key_that_a_column_has_twice_is_refused_by_name(tmp_path, names, found):
    twice = Made(np.array([[7, 1], [7, 1]], np.uint64), names)
    columns = {"a": Made(keys_of(["0/q"]), ["0/q"]), "b": twice}
    with pytest.raises(UserError, match=f"b has .*{found}"):
        align(columns, [], tmp_path, Damaged())  # pyright: ignore[reportArgumentType]


def test_chunks_give_what_was_written_whatever_their_number(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"0/{i}" for i in range(50)]
    values = [rng.integers(0, 99, n).astype(np.uint16) for n in rng.integers(0, 6, 50)]
    chunks = []
    for number, part in enumerate(np.array_split(np.arange(50), 4)):
        (tmp_path / str(number)).mkdir()
        with ChunkWriter(tmp_path / str(number), {}) as writer:
            for i in part:
                writer.add(names[i], values[i])
        chunks.append(Chunk.open(tmp_path / str(number)))
    whole = ChunkedColumn(tuple(chunks))
    asked = np.array([49, 0, -1, 13, 13, 30])
    held = whole.ragged(asked)
    assert held.lengths.tolist() == [0 if i < 0 else len(values[i]) for i in asked]
    for place, i in enumerate(asked):
        if i >= 0:
            sample = np.full(len(values[i]), place)
            assert (held.take(sample, np.arange(len(values[i]))) == values[i]).all()
            assert (whole.element(i) == values[i]).all() and whole.name(i) == names[i]
    assert (np.concatenate(list(whole.key_blocks())) == keys_of(names)).all()
    assert len(whole.ragged(np.array([-1])).parts) == 1


def test_samples_of_one_length_have_no_offsets(tmp_path):
    assert not (chunk(tmp_path / "fixed", ["0/a", "0/b"]).folder / "offsets.bin").exists()
    assert (chunk(tmp_path / "ragged", ["0/a", "0/b"], [1, 2]).folder / "offsets.bin").exists()


def test_a_damaged_chunk_is_named(tmp_path):
    held = chunk(tmp_path / "c", ["0/a", "0/b"])
    values = held.folder / "values.bin"
    values.write_bytes(b"\0" * values.stat().st_size)
    with pytest.raises(UserError, match=r"values.bin is damaged \(its checksum differs\)"):
        Chunk.open(held.folder).verify()
    values.write_bytes(b"\0")
    with pytest.raises(UserError, match="values.bin has 1 bytes where the index says 16"):
        Chunk.open(held.folder)
    values.unlink()
    with pytest.raises(UserError, match="values.bin is missing"):
        Chunk.open(held.folder)
    index = held.folder / "index.json"
    newer = json.loads(index.read_text()) | {"version": 99}
    index.write_text(json.dumps(newer))
    with pytest.raises(UserError, match="version 99, this release reads up to 2"):
        Chunk.open(held.folder)
    index.write_text("{")
    with pytest.raises(UserError, match="index.json is not valid JSON"):
        Chunk.open(held.folder)


def test_a_chunk_that_was_not_written_to_its_end_is_none(tmp_path):
    (tmp_path / "c").mkdir()
    with pytest.raises(KeyboardInterrupt), ChunkWriter(tmp_path / "c", {}) as writer:
        writer.add("0/a", np.zeros(2, np.uint16))
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="no chunk of a column"):
        Chunk.open(tmp_path / "c")


HOLDER = """
import sys, time
from pathlib import Path
from fourm.data.once import make_once

def make(folder):
    (folder / "half").write_text("x")
    print("holding", flush=True)
    time.sleep(600)

make_once(Path(sys.argv[1]), make)
"""


def test_a_killed_maker_leaves_no_lock_and_those_who_wait_say_so(tmp_path, caplog):
    folder = tmp_path / "cache" / "x"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "holding\n"
    made = []

    def make(place):
        made.append(sorted(p.name for p in place.iterdir()))
        (place / "index.json").write_text("{}")

    waiting = threading.Thread(target=make_once, args=(folder, make))
    waiting.start()
    waiting.join(1)
    assert waiting.is_alive() and not made
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    waiting.join(30)
    assert made == [[]], "what the dead one had begun is gone"
    assert "another process is making" in caplog.text and (folder / "index.json").is_file()
    assert [p.name for p in folder.parent.iterdir() if "tmp" in p.name] == []


def test_a_lock_file_without_a_holder_stops_nobody(tmp_path):
    (tmp_path / "x.lock").write_bytes(b"")
    make_once(tmp_path / "x", lambda place: (place / "index.json").touch())
    with open(tmp_path / "x.lock", "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    make_once(tmp_path / "x", lambda place: pytest.fail("made twice"))  # no lock is asked for


def test_a_cache_of_an_earlier_release_is_left_alone_and_made_anew(tmp_path):
    root = write_project(tmp_path).parent
    old = root / "cache" / "0123456789abcdef0123"
    old.mkdir(parents=True)
    np.save(old / "keys.npy", np.array(["00000/00000000"]))
    (old / "index.json").write_text('{"described": "x", "dtype": "<u2", "shape": [0]}')
    config = SourceConfig(tokens=str(root / "tokens"), raw=str(root / "raw"))
    modalities = ModalitySet.load(root / "modalities.yaml")
    first = Source(config, "train", modalities, root / "cache", 0.0)
    assert first.num_samples == 48 and first.presence.num_complete == 48
    assert (old / "keys.npy").is_file()
