"""Tokenizing ends in chunks whose bytes are a function of the raw shards: whatever was killed,
made again or left by an earlier release.
"""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from fourm_data_prep import joining
from fourm_data_prep.engine_options import EngineConfig
from fourm_data_prep.shard_steps import Before
from fourm_data_prep.tokenize import TokenizeStep, tokenize

from fourm.data.columns import open_chunks
from fourm.data.npy import write_npy
from fourm.data.shards import shard_path, write_shard
from fourm.data.store import Source, SourceConfig
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.raw.image import Image

NUM_SHARDS, EACH, CHUNK_SHARDS = 5, 6, 2
ONE = EngineConfig(workers=1)
CONFIG = """
modalities:
  rgb: {kind: grid, raw: {type: image, size: 4}, vocab_size: 256, grid: [2, 2], tokenizer: corners}
  words: {kind: sequence, raw: {type: image, size: 4}, vocab_size: 1300, max_tokens: 9,
          source: rgb, tokenizer: bright}
tokenizers: {corners: {type: "test_joining:Corners"}, bright: {type: "test_joining:Bright"}}
"""


class Corners:
    """Ids of a picture are the reds of its corners."""

    codebook_size, fingerprint = 256, "corners"

    def __init__(self, folder, modality):
        pass

    def encode(self, raw):
        return [np.asarray(v)[::3, ::3, 0].reshape(-1).astype(np.int64) for v in raw]

    def decode(self, ids):
        raise NotImplementedError


class Bright(Corners):
    """A text of as many ids as its first red says, 0 to 8."""

    codebook_size, fingerprint = 1300, "bright"

    def encode(self, raw):
        return [np.arange(int(v[0, 0, 0]) % 9) + 1000 for v in raw]


def write_raw(folder, number, seed=0, num=EACH):
    rng = np.random.default_rng([number, seed])
    pictures = rng.integers(0, 256, (num, 4, 4, 3), dtype=np.uint8)
    members = [(f"{i:04d}", "png", Image(size=4).write(p)) for i, p in enumerate(pictures)]
    write_shard(shard_path(folder, "train", "rgb", number), members)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "m.yaml").write_text(CONFIG)
    for name in ("corners", "bright"):
        (tmp_path / "tokenizers" / name).mkdir(parents=True)
    for number in range(NUM_SHARDS):
        write_raw(tmp_path / "raw", number)
    return tmp_path


def make(project, out="tokens", engine=ONE, chunk_shards=CHUNK_SHARDS):
    places = (project / "m.yaml", project / "raw", project / "tokenizers", project / out)
    tokenize(*places, engine=engine, chunk_shards=chunk_shards)
    return chunks(project / out)


def chunks(folder):
    """Bytes of all files of tokens."""
    found = (p for p in folder.glob("train/*/**/*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def test_tokens_end_in_chunks_of_so_many_shards_and_nothing_else(project):
    made = make(project)
    assert {name.split("/")[2] for name in made} == {
        "00000.chunk",
        "00001.chunk",
        "00002.chunk",
        "tokenizer.json",
    }
    assert "train/words/00000.chunk/offsets.bin" in made, "lengths of texts differ"
    assert "train/rgb/00000.chunk/offsets.bin" not in made, "those of grids do not"
    modalities = ModalitySet.load(project / "m.yaml")
    config = SourceConfig(tokens=str(project / "tokens"))
    source = Source(config, "train", modalities, project / "cache", 0.0)
    assert source.num_samples == NUM_SHARDS * EACH and not (project / "cache").exists()
    assert source.keys(np.array([7])) == ["00001/0001"]
    for chunk in open_chunks(project / "tokens", "train", "words").chunks:
        chunk.verify()


def test_bytes_are_those_of_any_number_of_workers_and_tasks(project):
    wanted = make(project)
    assert make(project, "two", EngineConfig(workers=2)) == wanted
    for first in range(0, NUM_SHARDS, 2):
        make(project, "array", EngineConfig(workers=1, shard_range=(first, first + 2)))
    assert make(project, "array") == wanted
    make(project, "odd", EngineConfig(workers=1, shard_range=(0, 3)))
    assert (project / "odd" / "train" / "rgb" / "pieces" / "00002").is_dir()
    assert make(project, "odd") == wanted


class Killed(BaseException):
    """In place of a signal, which cannot be timed."""


@pytest.mark.parametrize("calls_before", (0, 1, 4, 9))
@pytest.mark.parametrize(
    "place, name",
    [(joining, "replacing"), (joining, "write_json_atomic"), (shutil, "rmtree"), (os, "rename")],
    ids=["chunk", "manifest", "removal", "rename"],
)
def test_a_kill_anywhere_and_a_start_again_give_the_same_bytes(
    project, monkeypatch, place, name, calls_before
):
    wanted = make(project, "undisturbed")
    left, real = iter(range(calls_before)), getattr(place, name)

    def fragile(*arguments, **options):
        if next(left, None) is None:
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fragile)
        with contextlib.suppress(Killed):
            make(project)
    assert make(project) == wanted


def test_a_kill_between_the_renames_of_a_chunk_loses_no_tokens(project, monkeypatch):
    make(project)
    folder = project / "tokens" / "train" / "rgb" / "00001.chunk"
    folder.rename(folder.with_name("00001.chunk.old"))
    monkeypatch.setattr(TokenizeStep, "run", lambda self, job: pytest.fail("made again"))
    make(project)
    assert folder.is_dir()


def test_a_changed_shard_is_made_again_alone(project, monkeypatch):
    make(project)
    write_raw(project / "raw", 2, seed=1)
    write_raw(project / "raw", NUM_SHARDS)
    ran, real = [], TokenizeStep.run
    with monkeypatch.context() as patch:
        patch.setattr(TokenizeStep, "run", lambda self, j: ran.append(j.number) or real(self, j))
        again = make(project)
    assert ran == [2, NUM_SHARDS] and again == make(project, "anew")


def test_a_shard_that_is_gone_is_gone_from_its_chunk(project):
    make(project)
    shard_path(project / "raw", "train", "rgb", 3).unlink()
    assert make(project) == make(project, "anew")


def test_a_modality_that_comes_later_is_made_alone(project):
    whole = (project / "m.yaml").read_text()
    first = whole.split("  words")[0] + "tokenizers: {corners: {type: 'test_joining:Corners'}}\n"
    (project / "m.yaml").write_text(first)
    before = make(project)
    (project / "m.yaml").write_text(whole)
    after = make(project)
    assert before.items() <= after.items() and after == make(project, "anew")


def test_token_tars_of_an_earlier_release_are_joined_as_they_are(project, monkeypatch):
    wanted = make(project, "anew")
    out = project / "tokens"
    modalities = ModalitySet.load(project / "m.yaml")
    step = TokenizeStep(modalities, project / "raw", project / "tokenizers", out)
    step.prepare()
    for job in step.jobs():  # as release 0.6 left them
        outputs, made_from = [], step._made_from(job)
        for name in ("rgb", "words"):
            column = open_chunks(project / "anew", "train", name)
            of_shard = [(key.split("/"), ids) for key, ids in column.samples()]
            path = shard_path(out, "train", name, job.number)
            rows = [(k, "npy", write_npy(v)) for (s, k), v in of_shard if int(s) == job.number]
            write_shard(path, rows)
            outputs.append(str(path.relative_to(out)))
        manifest = {
            "format": 1,
            "inputs": job.inputs,
            "settings": joining.fingerprint(step.described()),
            "outputs": outputs,
            "samples": EACH,
            "skipped": [],
            "made_from": dict(zip(outputs, made_from.values(), strict=True)),
        }
        joining.write_json_atomic(joining.manifest_path(step, job), manifest)
    monkeypatch.setattr(TokenizeStep, "run", lambda self, job: pytest.fail("made again"))
    assert make(project) == wanted
    assert Before.of(out, "tokenize", step.jobs()[0]).made_from.keys() == {
        "train/rgb/00000.chunk/index.json",
        "train/words/00000.chunk/index.json",
    }


def test_another_number_of_shards_a_chunk_is_refused_and_changes_nothing(project):
    before = make(project)
    for other in (1, 3):
        with pytest.raises(UserError, match=f"another --chunk-shards than {other}: give the same"):
            make(project, chunk_shards=other)
    assert chunks(project / "tokens") == before


def test_tokens_that_are_not_finished_are_refused_where_they_are_read(project):
    make(project, engine=EngineConfig(workers=1, shard_range=(0, 1)))
    modalities = ModalitySet.load(project / "m.yaml")
    config = SourceConfig(tokens=str(project / "tokens"))
    with pytest.raises(UserError, match="not finished: run `fourm tokenize` again"):
        Source(config, "train", modalities, project / "cache", 0.0)


def test_chunks_of_another_vocabulary_or_size_are_refused(project):
    make(project)
    config = SourceConfig(tokens=str(project / "tokens"))
    (project / "tokens" / "train" / "words" / "tokenizer.json").unlink()
    for change, found in (
        (("1300", "1000"), r"id 1007 is outside the vocabulary of 1000"),
        (("[2, 2]", "[3, 3]"), "has 4 ids a sample where rgb has 9"),
    ):
        (project / "other.yaml").write_text(CONFIG.replace(*change))
        with pytest.raises(UserError, match=found):
            modalities = ModalitySet.load(project / "other.yaml")
            Source(config, "train", modalities, project / "cache", 0.0)


def test_a_chunk_says_what_made_it(project):
    make(project)
    folder = project / "tokens" / "train" / "rgb" / "00001.chunk"
    index = json.loads((folder / "index.json").read_text())
    assert index["made_by"]["fingerprint"] == "corners" and index["length"] == 4
    assert [piece["shard"] for piece in index["made_by"]["pieces"]] == [2, 3]
    shutil.rmtree(folder)
    make(project)
    assert json.loads((folder / "index.json").read_text()) == index
