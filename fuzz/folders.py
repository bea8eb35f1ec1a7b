"""Targets that read folders: models, tokenizers, checkpoints, chunks of columns, manifests.

A file of a folder that is right is damaged: as bytes, or, of JSON, as the tree that it holds.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fourm_data_prep.shard_steps import Before, Job, finished
from fourm_tokenizers.text import TextConfig, train_text_tokenizer
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from safetensors.numpy import save_file

from fourm.codec_types import find_codec
from fourm.data.chunks import Chunk, ChunkWriter
from fourm.data.shards import Damage
from fourm.modalities import ModalitySet
from fourm.model.config import ModelConfig
from fourm.model.model import FourM, load_model
from fourm.pipeline.preferred import read_options
from fourm.resources import demo_model_folder
from fourm.training.checkpoints import (
    MANIFEST,
    STATE,
    TENSORS,
    fault_of,
    newest_checkpoint,
    read_checkpoint,
    sha256,
)
from fuzz.inputs import changed_tree, damaged, texts, trees_like, values
from fuzz.target import Target

_TINY = {
    "modalities": {
        "depth": {
            "kind": "grid",
            "raw": {"type": "depth", "size": 8},
            "vocab_size": 9,
            "grid": [2, 2],
        },
        "caption": {
            "kind": "sequence",
            "raw": {"type": "text"},
            "tokenizer": {"type": "text", "vocab_size": 60, "num_sentinels": 4, "num_bins": 8},
            "max_tokens": 6,
        },
    }
}


@dataclass(frozen=True)
class Change:
    """A file of a folder and how it is damaged."""

    file: str
    number: int
    as_tree: bool


def _damage(good: Path, folder: Path, change: Change) -> None:
    """A copy of a good folder with one file damaged."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    path = folder / change.file
    data = path.read_bytes()
    if change.as_tree and change.file.endswith(".json"):
        others = [None, -1, 0, 1, 2**63, 10**400, "", "x", "..", [], {}, [1], 0.5, "os:system"]
        path.write_text(json.dumps(changed_tree(json.loads(data), change.number, others)))
    else:
        path.write_bytes(damaged(data, change.number))


def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="fourm-fuzz-"))


@cache
def _model() -> Path:
    folder = _temporary()
    config = ModelConfig(dim=8, encoder_depth=1, decoder_depth=1, num_heads=2)
    FourM(config, ModalitySet.from_mapping(_TINY)).save_pretrained(folder)
    options = json.dumps({"depth": {"steps": 2, "scheme": {"type": "maskgit"}}})
    (folder / "generation.yaml").write_text(options)
    return folder


def open_model(change: Change, folder: Path) -> None:
    """A model folder: its description, its weights, its settings of sampling."""
    _damage(_model(), folder / "model", change)
    load_model(folder / "model")
    read_options(folder / "model" / "generation.yaml")


@cache
def _tokenizers() -> Path:
    folder = _temporary()
    shutil.copytree(demo_model_folder() / "tokenizers" / "depth", folder / "depth")
    config = TextConfig(vocab_size=60, num_sentinels=4, num_axes=2, num_bins=8)
    train_text_tokenizer(config, ["a red cube", "a blue ball"], folder / "caption")
    return folder


def open_tokenizer(change: Change, folder: Path) -> None:
    """A tokenizer's folder, opened and used."""
    name = change.file.partition("/")[0]
    _damage(_tokenizers() / name, folder / name, Change(*_inside(change)))
    if name == "caption":
        text = ModalitySet.from_mapping(_TINY)["caption"]
        codec = find_codec("text")(folder / name, text)
        codec.decode(codec.encode(["a red cube"]))
    else:
        from fourm_tokenizers.picture import load_autoencoder

        load_autoencoder(folder / name)


def _inside(change: Change) -> tuple[str, int, bool]:
    return change.file.partition("/")[2], change.number, change.as_tree


@cache
def _checkpoint() -> Path:
    folder = _temporary() / "step_00000010"
    folder.mkdir()
    save_file({"a": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    save_file({"m": np.zeros(4, np.float32)}, folder / TENSORS)
    (folder / STATE).write_text(json.dumps({"format": 1, "step": 10, "loop": {"seed": 0}}))
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(files))
    return folder


def open_checkpoint(change: Change, folder: Path) -> None:
    """A checkpoint: what its manifest says, and what is read of it where it says nothing."""
    place = folder / "checkpoints" / "step_00000010"
    _damage(_checkpoint(), place, change)
    newest_checkpoint(place.parent)
    fault_of(place)
    read_checkpoint(place)


@cache
def _chunk() -> Path:
    folder = _temporary() / "00000.chunk"
    folder.mkdir()
    with ChunkWriter(folder, {"described": "x"}) as writer:
        for i in range(4):
            writer.add(f"00000/{i}", np.arange(i + 1, dtype=np.uint16))
    return folder


def open_chunk(change: Change, folder: Path) -> None:
    """A chunk of a column, every part of it read."""
    place = folder / "00000.chunk"
    _damage(_chunk(), place, change)
    chunk = Chunk.open(place)
    chunk.verify()
    starts, lengths = chunk.locate(np.arange(min(len(chunk), 100)))
    if len(chunk):
        assert chunk.names[0] is not None
        chunk.values[int(starts[0]) : int(starts[0] + lengths[0])].sum()


@dataclass
class _Step:
    """The least that the engine asks of a step."""

    out: Path
    name: str = "import"

    def described(self) -> dict[str, Any]:
        return {"x": 1}

    def jobs(self) -> list[Job]:
        return []

    def run(self, job: Job) -> Any:
        raise AssertionError


_MANIFEST = {
    "format": 1,
    "inputs": "x",
    "settings": "y",
    "outputs": ["train/rgb/00000.tar"],
    "samples": 3,
    "skipped": [vars(Damage("a", "b", "c"))],
    "seconds": 0.1,
    "counts": {"train": 3},
    "remarks": {},
}


def read_manifest(tree: Any, folder: Path) -> None:
    """What a step of data preparation left of a shard."""
    step, job = _Step(folder), Job("train", 0, "x")
    path = folder / "manifests" / step.name / f"{job.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, default=repr))
    finished(step, job)  # pyright: ignore[reportArgumentType]
    Before.of(folder, step.name, job)


def _changes(good: Callable[[], Path]) -> Callable[[], SearchStrategy[Change]]:
    def made() -> SearchStrategy[Change]:
        root = good()
        files = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()]
        small = [name for name in files if (root / name).stat().st_size < 1 << 20]
        return st.builds(Change, st.sampled_from(small), st.integers(0, 2**62), st.booleans())

    return made


def targets() -> Iterator[Target]:
    """All of this file."""
    yield Target(name="model-folder", inputs=_changes(_model), run=open_model, share=0.6)
    yield Target(
        name="tokenizer-folder", inputs=_changes(_tokenizers), run=open_tokenizer, share=0.4
    )
    yield Target(name="checkpoint", inputs=_changes(_checkpoint), run=open_checkpoint)
    yield Target(name="chunk", inputs=_changes(_chunk), run=open_chunk)
    manifests = lambda: st.one_of(trees_like([_MANIFEST]), values(), texts())  # noqa: E731
    yield Target(name="manifest", inputs=manifests, run=read_manifest)
