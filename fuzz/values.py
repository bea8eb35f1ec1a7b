"""Targets that read values: what JSON files hold, what users pass, what models spell, ids."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fourm.errors import UserError
from fourm.raw import Raw
from fourm.raw.array import Array
from fourm.raw.audio import Audio
from fourm.raw.boxes import Boxes
from fourm.raw.depth import Depth
from fourm.raw.image import Image
from fourm.raw.instances import Instances
from fourm.raw.labels import Labels
from fourm.raw.metadata import METADATA, Metadata
from fourm.raw.normal import Normal
from fourm.raw.numbers import Numbers
from fourm.raw.palette import Palette
from fourm.raw.poses import POSE_BLOCKS, Poses
from fourm.raw.text import Text
from fourm.raw.vectors import Vectors
from fourm.raw.words import Words
from fourm.resources import demo_model_folder
from fuzz.inputs import files_like, nested, texts, trees_like, values
from fuzz.target import Target

SPELLED: tuple[Raw, ...] = (
    *(Text(), Boxes(), Palette(), Metadata(), Poses(), Words(), Instances(size=224), Numbers()),
    Numbers(range=((0.0, 1.0), (-5.0, 5.0))),
)
DENSE: tuple[Raw, ...] = (
    *(Image(size=8), Depth(size=8), Normal(size=8), Array(size=8, channels=2)),
    *(Labels(size=8, classes=("a", "b"), ignore=7), Vectors(channels=3), Audio(rate=8000)),
)
_BINS = (2, 64, 1000)
_PERSON = {"box": [0.1, 0.2, 0.3, 0.4], **{name: [0] * num for name, num in POSE_BLOCKS.items()}}
EXAMPLES: tuple[Any, ...] = (
    [{"box": [0.1, 0.2, 0.3, 0.4], "label": "red cube"}, {"box": [0, 0, 1, 1], "label": ""}],
    [[255, 0, 3], [1, 2, 3]],
    {kind.name: 3 for kind in METADATA[:5]} | {"brightness": 20.5, "aesthetic_score": 5},
    [_PERSON, _PERSON],
    ["wood", "metal"],
    {"points": [{"at": [1, 2], "instances": [{"box": [1, 2, 3, 4], "mask": [0] * 16}]}]},
    [0.3, 1.5],
)
_PARTS = st.one_of(
    st.builds("v{}={}".format, st.integers(0, 4), st.integers(0, 1100)),
    st.sampled_from(
        ["human", "polygon", "point", "none", "pose", "global", "shape", "camera", "v0=", "=", ","]
    ),
    st.sampled_from([f"v{axis}={'9' * 5000}" for axis in range(4)]),
    texts(),
)


def json_values() -> SearchStrategy[Any]:
    """Values of JSON, most of them nearly right."""
    return st.one_of(trees_like(EXAMPLES), trees_like(EXAMPLES), values())


def use(raw: Raw, value: Any) -> None:
    """All that is done with a value that was read: spelled, shown, measured, cut."""
    raw.remark(value)
    raw.counted(value)
    for numbers in raw.measured(value).values():
        np.asarray(numbers)
    raw.line(value)
    raw.printed(value)
    if raw.has_picture:
        raw.picture(value)
    for bins in _BINS:
        _spelled(raw, raw.to_text(value, bins), bins)


def _spelled(raw: Raw, line: str, bins: int) -> None:
    """A line as a value, and that value as a line again: what comes out can be given."""
    again = raw.from_text(line, bins)
    raw.to_text(again, bins)


def read_json(case: tuple[Raw, Any], folder: Path) -> None:
    """A JSON file of a type."""
    raw, value = case
    data = json.dumps(value, default=repr).encode()
    use(raw, raw.read(data, raw.extensions[0]))


def read_json_bytes(data: bytes, folder: Path) -> None:
    """A damaged JSON file, as every type reads it."""
    for raw in SPELLED:
        try:
            use(raw, raw.read(data, raw.extensions[0]))
        except UserError as error:
            assert "\n" not in str(error)


def take(case: tuple[Raw, Any], folder: Path) -> None:
    """A value that a user passes from Python."""
    raw, value = case
    raw.is_batch(value)
    raw.check(raw.accept(value))


def objects() -> SearchStrategy[Any]:
    """What a user may pass: values, arrays of every type and shape."""
    shapes = st.sampled_from([(), (0,), (8, 8), (8, 8, 3), (8, 8, 2), (3,), (2, 3), (9, 7, 3)])
    kinds = st.sampled_from(["u1", "f4", "f8", "i8", "?", "U3", "O", "c16", "M8[s]", "f2"])
    fills = st.sampled_from([0, 1, 255])
    made = st.builds(lambda s, k, f: np.full(s, f).astype(k), shapes, kinds, fills)
    return st.one_of(made, json_values(), st.binary(max_size=5))


def decode_text(case: tuple[Raw, str, int], folder: Path) -> None:
    """A line that a model spelled: it becomes a value of the type, whatever it says."""
    raw, line, bins = case
    value = raw.from_text(line, bins)
    if not isinstance(raw, Numbers) or not raw.count or len(value) == raw.count:
        raw.line(value)
        if raw.has_picture:
            raw.picture(value)
        raw.to_text(value, bins)


@cache
def _codecs() -> Any:
    from fourm.codecs import CodecSet
    from fourm.files.model_files import read_description
    from fourm.modalities import ModalitySet

    folder = demo_model_folder()
    described = read_description(folder) or {}
    tables = {key: described[key] for key in ("tokenizers", "modalities")}
    return CodecSet(ModalitySet.from_mapping(tables), folder / "tokenizers")


def decode_ids(case: tuple[str, list[int]], folder: Path) -> None:
    """Ids of a sequence of the shipped model -> a value that can be shown."""
    name, ids = case
    codec = _codecs()[name]
    (value,) = codec.decode([np.array(ids, np.int64)])
    codec.modality.raw.line(value)
    if codec.modality.raw.has_picture:
        codec.modality.raw.picture(value)


def decode_codes(case: tuple[str, list[int]], folder: Path) -> None:
    """Ids of a map of the shipped model, any number of them and beyond the vocabulary too."""
    name, ids = case
    (value,) = _codecs()[name].decode([np.array(ids, np.int64)])
    assert np.isfinite(np.asarray(value, np.float64)).all()


def _sequences() -> SearchStrategy[Any]:
    ids = st.lists(st.one_of(st.integers(0, 383), st.integers(20, 290)), max_size=60)
    return st.tuples(st.sampled_from(["caption", "boxes", "palette"]), ids)


def _codes() -> SearchStrategy[Any]:
    whole = st.lists(st.integers(0, 200), min_size=64, max_size=64)
    other = st.lists(st.integers(-3, 3000), max_size=70)
    return st.tuples(st.sampled_from(["rgb", "depth", "normal", "semseg"]), st.one_of(whole, other))


def _pairs(raws: tuple[Raw, ...], inputs: Callable[[], Any]) -> Callable[[], SearchStrategy[Any]]:
    return lambda: st.tuples(st.sampled_from(raws), inputs())


def _json_files() -> SearchStrategy[bytes]:
    seeds = [json.dumps(value).encode() for value in EXAMPLES]
    return files_like([*seeds, nested().encode(), nested('{"a":', "}").encode()])


def targets() -> Iterator[Target]:
    """All of this file."""
    lines = st.lists(_PARTS, max_size=30).map(" ".join)
    spelled = st.tuples(st.sampled_from(SPELLED), lines, st.sampled_from(_BINS))
    yield Target(name="json", inputs=_pairs(SPELLED, json_values), run=read_json, share=12)
    yield Target(
        name="json-bytes", inputs=_json_files, run=read_json_bytes, takes_bytes=True, share=6
    )
    yield Target(name="passed", inputs=_pairs((*DENSE, *SPELLED), objects), run=take, share=6)
    yield Target(name="spelled", inputs=lambda: spelled, run=decode_text, share=6)
    yield Target(name="ids", inputs=_sequences, run=decode_ids, share=3)
    yield Target(name="codes", inputs=_codes, run=decode_codes, share=0.4)
