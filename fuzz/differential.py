"""Two ways to one result, on random configs and batches: a difference is a finding.

The slow ways are the references of ``tests``: packed streams against one sample at a time, the
compiled masker against the vectorised one, cached against uncached decoding, attention against the
plain loop, a part of a picture against the whole, tars by their headers against ``tarfile``.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from conftest import TINY, make_arrays, make_model, make_tokens
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from PIL import Image
from test_attention import equals_the_plain_loop
from test_compiled_masking import assert_equal, both
from test_model import plain_forward
from test_sampling import SENTINELS, make_state
from uncached_decoder import UncachedDecoder

from fourm.batches.layout import Layout
from fourm.batches.mask_config import KeepRule, MaskingComponent, MaskingConfig
from fourm.batches.masking import Masker
from fourm.data.crops import Crop
from fourm.data.picture_parts import read_part
from fourm.data.tar_headers import members_of
from fourm.modalities import ModalitySet
from fourm.model.attention import prepare
from fourm.model.attention.blockwise import BlockwiseKernel
from fourm.model.attention.padded import prepare_padded
from fourm.raw.image import Image as ImageType
from fourm.sampling.autoregressive import CachedDecoder
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fuzz.target import Target

_SHARES = st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0, 10.0, 1000.0])
_NAMES = tuple(TINY["modalities"])
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"num_registers": 2},
    {"qk_norm": True, "norm_bias": True},
    {"gated_mlp": False, "qkv_bias": True, "proj_bias": True, "mlp_bias": True},
    {"share_modality_embeddings": True, "decoder_depth": 1},
)


@dataclass(frozen=True)
class Masks:
    """A mixture of masks and samples that it is drawn for."""

    config: MaskingConfig
    num: int
    seed: int
    lacking: str


@cache
def _modalities() -> ModalitySet:
    return ModalitySet.from_mapping(TINY)


def _ranges(least: int) -> SearchStrategy[tuple[int, int]]:
    ends = st.tuples(st.integers(least, 40), st.integers(least, 40))
    return ends.map(lambda pair: (min(pair), max(pair)))


def _components() -> SearchStrategy[MaskingComponent]:
    table = st.dictionaries(st.sampled_from(_NAMES), _SHARES, max_size=4)
    outputs = st.dictionaries(st.sampled_from([n for n in _NAMES if n != "pixels"]), _SHARES)
    rules = st.sampled_from(["random", "all", "binary", "none"])
    keep: SearchStrategy[dict[str, KeepRule]] = st.dictionaries(
        st.sampled_from(["caption", "boxes"]), rules
    )
    own = st.one_of(st.none(), _ranges(1))
    return st.builds(
        MaskingComponent,
        input=table,
        target=outputs,
        keep=keep,
        input_default=_SHARES.filter(bool),
        target_default=_SHARES.filter(bool),
        num_inputs=own,
        num_targets=own,
        weight=st.sampled_from([0.1, 1.0, 5.0]),
    )


def _masks(most: int = 24) -> SearchStrategy[Masks]:
    config = st.builds(
        MaskingConfig,
        num_inputs=_ranges(0),
        num_targets=_ranges(1),
        components=st.lists(_components(), min_size=1, max_size=4).map(tuple),
        redistribute=st.booleans(),
    )
    lacking = st.sampled_from(["", *_NAMES])
    return st.builds(Masks, config, st.integers(1, most), st.integers(0, 10**6), lacking)


def _compiled(inputs: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """The same; the masker is compiled before anything is timed."""
    component = MaskingComponent(input_default=0.5, target_default=0.5)
    config = MaskingConfig(num_inputs=(1, 9), num_targets=(1, 9), components=(component,))
    masks_agree(Masks(config, 3, 0, ""), Path())
    return inputs


def masks_agree(case: Masks, folder: Path) -> None:
    """The compiled masker and the vectorised one, every field of the batch."""
    arrays, lengths = make_arrays(_modalities(), case.num, case.seed, case.lacking)
    rng = np.random.default_rng(case.seed)
    lengths = {n: np.where(rng.random(case.num) < 0.2, 0, held) for n, held in lengths.items()}
    draws = rng.integers(0, 2**40, case.num)
    assert_equal(*both(_modalities(), case.config, arrays, lengths, draws, case.seed))


@cache
def _model(number: int) -> Any:
    return make_model(_modalities(), **{"dim": 16, "num_heads": 2, **_OPTIONS[number]})


def packed_agrees(case: tuple[int, Masks], folder: Path) -> None:
    """Packed streams and one sample at a time with explicit masks."""
    number, masks = case
    model = _model(number)
    tokens = make_tokens(_modalities(), masks.num, masks.seed, masks.lacking)
    batch = Masker(_modalities(), masks.config, masks.seed)(tokens, np.arange(masks.num))
    with torch.no_grad():
        packed = model.decode(model.encode(batch.encoder), batch.decoder)
        end = np.cumsum(batch.decoder.lengths)
        for b in range(masks.num):
            if not batch.decoder.lengths[b] or not batch.encoder.lengths[b]:
                continue
            own = packed[end[b] - batch.decoder.lengths[b] : end[b]]
            assert torch.allclose(own, plain_forward(model, batch, b), atol=2e-4), b


def cached_agrees(case: tuple[int, int, int, SamplingOptions], folder: Path) -> None:
    """Sequences decoded with cached keys and values, and by the whole prefix each time."""
    number, num, seed, options = case
    state, seeds = make_state(_modalities(), num, seed), np.arange(seed, seed + num)
    found = []
    for decoder in (CachedDecoder, UncachedDecoder):
        sampler = Sampler(_model(number), SENTINELS)
        with patch("fourm.sampling.sequences.CachedDecoder", decoder):
            given = ["caption", "depth"]
            found.append(sampler.generate(state, "boxes", options, seeds, given))
    pairs = zip(*(state.sequences["boxes"] for state in found), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def attention_agrees(case: tuple[list[int], list[int]], folder: Path) -> None:
    """Kernels of attention and the plain loop, with gradients."""
    queries, keys = case
    keys = (keys * len(queries))[: len(queries)]
    layout = Layout.per_sample(np.array(queries), np.array(keys))
    equals_the_plain_loop(layout, prepare(layout, torch.zeros(0), "sdpa", 8).kernel.attend)
    equals_the_plain_loop(layout, prepare_padded(layout).attend)
    if not layout.is_empty:
        equals_the_plain_loop(layout, BlockwiseKernel.of(layout).attend)


def parts_agree(case: tuple[int, int, int, int, Crop], folder: Path) -> None:
    """The part of a picture that a crop shows, and the crop of the whole picture."""
    width, height, size, turn, crop = case
    rng = np.random.default_rng(width * height)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    pixels = rng.integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif.tobytes())
    raw, data = ImageType(size=size), buffer.getvalue()
    whole = raw.cut(raw.read(data, "png", native=True), crop)
    assert np.array_equal(read_part(data, size, crop), whole)


@st.composite
def _plain_tars(draw: Callable[..., Any]) -> bytes:
    """Tars as ``tarfile`` writes them: names of every script and length, folders and links."""
    buffer = io.BytesIO()
    form = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for _ in range(draw(st.integers(0, 5))):
            name = draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
            data = draw(st.binary(max_size=1100))
            info = tarfile.TarInfo((name * draw(st.sampled_from([1, 40])))[:150] + ".txt")
            info.type = draw(st.sampled_from([*[tarfile.REGTYPE] * 4, b"2", b"1", b"5", b"3"]))
            info.size = len(data) if info.type == tarfile.REGTYPE else 0
            with contextlib.suppress(ValueError):  # names that a format cannot hold
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tars_agree(data: bytes, folder: Path) -> None:
    """The files of a tar by ``tarfile``, and by their headers alone."""
    path = folder / "00000.tar"
    path.write_bytes(data)
    with tarfile.open(path) as tar:
        plain = [(i.name, i.offset_data, i.size) for i in tar if i.isfile()]
    listed = [(m.name, m.offset, m.size) for m in members_of(path)]
    assert [(n.rstrip("/"), *at) for n, *at in listed] == [(n.rstrip("/"), *at) for n, *at in plain]


def _crops() -> SearchStrategy[Crop]:
    def crop(side: float, top: float, left: float, flip: bool) -> Crop:
        return Crop(top * (1 - side), left * (1 - side), side, flip)

    share = st.floats(0, 1, allow_nan=False)
    return st.builds(crop, st.floats(0.3, 1), share, share, st.booleans())


def targets() -> Iterator[Target]:
    """All of this file."""
    few = _masks(5).map(lambda m: replace(m, config=replace(m.config, num_targets=(1, 20))))
    numbers = st.integers(0, len(_OPTIONS) - 1)
    sampling = st.builds(
        SamplingOptions,
        guidance_scale=st.sampled_from([1.0, 1.5, 4.0]),
        temperature=st.sampled_from([0.0, 0.5, 1.0]),
        top_p=st.sampled_from([1.0, 0.8]),
        top_k=st.sampled_from([0, 5]),
    )
    runs = st.tuples(numbers, st.integers(1, 4), st.integers(0, 9999), sampling)
    lengths = st.lists(st.integers(0, 12), min_size=1, max_size=9)
    layouts = st.tuples(lengths, lengths)
    sizes = st.integers(4, 40)
    pictures = st.tuples(sizes, sizes, st.sampled_from([4, 8, 16]), st.integers(1, 8), _crops())
    for name, inputs, run, share in (
        ("two-maskers", _masks(), masks_agree, 0.4),
        ("two-models", st.tuples(numbers, few), packed_agrees, 0.16),
        ("two-decoders", runs, cached_agrees, 0.16),
        ("two-attentions", layouts, attention_agrees, 0.3),
        ("two-pictures", pictures, parts_agree, 0.4),
        ("two-tars", _plain_tars(), tars_agree, 0.6),
    ):
        made = lambda inputs=inputs: _compiled(inputs)  # noqa: E731
        watched = run in (parts_agree, tars_agree)  # the others compile
        yield Target(name=name, inputs=made, run=run, share=share, seconds=20, watched=watched)
