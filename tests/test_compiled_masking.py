"""The compiled masker gives the masks of the vectorised one, field by field and row by row."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ALL_TO_ALL, make_arrays

from fourm.batches.mask_samples import _end_of, _is_before, mask_samples
from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.read_rows import read_ids
from fourm.batches.tokens import SampleTokens
from fourm.modalities import ModalitySet
from fourm.numbers import compiled, compiled_rng
from fourm.numbers.rng import CounterRNG
from tests.vectorised_masking import PaddedTokens, VectorisedMasker


def both(modalities, config, arrays, lengths, draws, seed=3):
    samples = np.arange(len(draws))
    kinds = {m.name: m.kind for m in modalities}
    ids = {name: a for name, a in arrays.items() if kinds[name] != "continuous"}
    vectors = {name: a for name, a in arrays.items() if kinds[name] == "continuous"}
    padded = PaddedTokens(samples, ids, lengths, vectors)
    tokens = SampleTokens.from_arrays(samples, arrays, lengths)
    return (
        Masker(modalities, config, seed)(tokens, draws),
        VectorisedMasker(modalities, config, seed)(padded, draws),
    )


def assert_equal(one, other, where="batch"):
    """Equal in type, shape and every number, whatever it is made of."""
    assert type(one) is type(other), where
    if dataclasses.is_dataclass(one):
        for f in dataclasses.fields(one):
            if f.name != "scale":
                assert_equal(getattr(one, f.name), getattr(other, f.name), f"{where}.{f.name}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}[{key}]")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and np.array_equal(one, other), where
    else:
        assert one == other, where


ANYTHING = MaskingComponent(input_default=0.5, target_default=0.5)
CONFIGS = {
    "all to all": ALL_TO_ALL,
    "what a clamp cuts off is lost": dataclasses.replace(ALL_TO_ALL, redistribute=False),
    "extreme shares": MaskingConfig(
        num_inputs=(0, 30),
        num_targets=(30, 30),
        components=(
            *(MaskingComponent(input_default=a, target_default=a) for a in (0.01, 0.1, 1.0, 10.0)),
            MaskingComponent(input={"caption": 1000.0}, target={"rgb": 1000.0}),
        ),
    ),
    "ranges of a component's own": MaskingConfig(
        num_inputs=(4, 8),
        num_targets=(4, 8),
        components=(
            dataclasses.replace(ANYTHING, num_inputs=(0, 0), num_targets=(50, 60), weight=3.0),
            dataclasses.replace(ANYTHING, num_inputs=(90, 90), num_targets=(1, 1)),
        ),
    ),
    "rules of keeping": MaskingConfig(
        num_inputs=(1, 20),
        num_targets=(2, 12),
        components=tuple(
            dataclasses.replace(ANYTHING, keep={"caption": first, "boxes": second})
            for first, second in (("all", "none"), ("binary", "all"), ("none", "binary"))
        ),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_a_batch_equals_the_vectorised_masker_s(modalities, name):
    for seed, lacking in ((0, ""), (1, "depth"), (2, "caption"), (3, "pixels")):
        arrays, lengths = make_arrays(modalities, 200, seed, lacking)
        draws = np.arange(200) + 1000 * seed
        assert_equal(*both(modalities, CONFIGS[name], arrays, lengths, draws, seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_so_do_those_of_samples_that_lack_half_of_everything(modalities, name):
    arrays, lengths = make_arrays(modalities, 400, 5)
    rng = np.random.default_rng(5)
    gaps = {n: np.where(rng.random(400) < 0.5, 0, held) for n, held in lengths.items()}
    gaps = {
        n: np.where(rng.random(400) < 0.1, np.minimum(held, 1), held) for n, held in gaps.items()
    }
    assert_equal(*both(modalities, CONFIGS[name], arrays, gaps, np.arange(400), 5))


@pytest.mark.parametrize("name, budget, redistribute", [("4m_7", 128, True), ("4m_21", 256, False)])
def test_so_do_those_of_the_papers_modalities(name, budget, redistribute):
    modalities = ModalitySet.load(f"configs/modalities/{name}.yaml")
    components = tuple(MaskingComponent(input_default=a, target_default=a) for a in (0.1, 0.5))
    config = MaskingConfig(
        num_inputs=(1, budget),
        num_targets=(budget, budget),
        components=components,
        redistribute=redistribute,
    )
    arrays, lengths = make_arrays(modalities, 32)
    assert_equal(*both(modalities, config, arrays, lengths, np.arange(32)))


def test_samples_without_any_token_give_no_rows(modalities):
    arrays, lengths = make_arrays(modalities, 3)
    empty = {name: np.where(np.arange(3) == 1, n, 0) for name, n in lengths.items()}
    fast, plain = both(modalities, ALL_TO_ALL, arrays, empty, np.arange(3))
    assert_equal(fast, plain)
    assert fast.decoder.lengths.tolist()[::2] == [0, 0]


def test_modalities_that_no_sample_has_may_be_left_out(modalities):
    arrays, lengths = make_arrays(modalities, 20)
    for name in ("depth", "pixels", "caption"):
        del arrays[name], lengths[name]
    assert_equal(*both(modalities, ALL_TO_ALL, arrays, lengths, np.arange(20)))


def test_ids_of_every_type_and_layout_are_read(modalities, masker):
    """uint16 and uint32 as they lie on disk, read-only as memory-mapped files are."""
    arrays, lengths = make_arrays(modalities, 8)
    whole = masker(SampleTokens.from_arrays(np.arange(8), arrays, lengths), np.arange(8))
    for dtype in (np.uint16, np.uint32):
        small = {n: a.astype(dtype) if a.dtype == np.int64 else a for n, a in arrays.items()}
        for array in small.values():
            array.flags.writeable = False
        tokens = SampleTokens.from_arrays(np.arange(8), small, lengths)
        assert_equal(masker(tokens, np.arange(8)), whole)


def test_what_was_compiled_ahead_is_all_that_a_batch_needs(modalities):
    arrays, lengths = make_arrays(modalities, 30)
    arrays["depth"] = arrays["depth"].astype(np.int16)  # a type that no other test has
    tokens = SampleTokens.from_arrays(np.arange(30), arrays, lengths)
    masker = Masker(modalities, ALL_TO_ALL, 0)
    masker.compile(tokens)
    ready = len(read_ids.signatures), len(mask_samples.signatures)
    masker(tokens, np.arange(30))
    assert (len(read_ids.signatures), len(mask_samples.signatures)) == ready


def test_random_numbers_equal_their_definition():
    rng, draws, count = CounterRNG(7, "masking"), np.arange(50), np.arange(40)
    along = lambda state, counter: np.uint64(compiled_rng.along(state, counter))  # noqa: E731
    states = [[along(along(rng.root, d), i) for i in count] for d in draws]
    each = lambda function: np.array([[function(s) for s in row] for row in states])  # noqa: E731
    wide = draws[:, None], count[None]
    assert np.array_equal(each(lambda s: s), rng.bits(*wide))
    assert np.array_equal(each(compiled_rng.uniform), rng.uniform(*wide))
    assert np.array_equal(
        each(lambda s: compiled_rng.integer(3, 11, s)), rng.integers(3, 11, *wide)
    )
    # logarithms and cosines of two libraries: the last place may differ
    close = lambda a, b: np.allclose(a, b, rtol=1e-13, atol=1e-14)  # noqa: E731
    assert close(each(compiled_rng.normal), rng.normal(*wide))
    for alpha in (0.01, 0.5, 1.0, 1000.0):
        drawn = each(lambda s, a=alpha: compiled_rng.log_gamma(a, s))
        assert close(drawn, rng.log_gamma_variate(np.float64(alpha), *wide))


def test_equal_keys_are_parted_by_position():
    keys = np.array([0.5, 0.25, 0.5, 0.5, 0.25, 0.75])
    for num in range(len(keys) + 1):
        end = _end_of(keys, num)
        before = [p for p in range(len(keys)) if _is_before(keys[p], p, end)]
        assert before == sorted(np.argsort(keys, kind="stable")[:num].tolist())


def test_every_module_with_compiled_functions_is_part_of_the_cache_s_name():
    package = Path(compiled.__file__).parents[1]
    uses = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "import compiled\n" in path.read_text()
    }
    assert uses <= set(compiled.SOURCES)


def test_the_package_is_imported_without_the_compiler():
    modules = "sys, fourm, fourm.pipeline.pipeline, fourm.batches.masking"
    code = f"import {modules}; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_compiled_code_is_kept_where_the_user_says_or_in_their_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert compiled._cache_folder().parent == tmp_path / "home" / "fourm" / "compiled"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "own"))
    assert compiled._cache_folder().parent == tmp_path / "own"
