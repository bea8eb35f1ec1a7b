"""Samples that lack modalities: budgets go to what is there, no sample is wasted that has anything
to learn from, and one with everything is masked as if there were no others.
"""

from dataclasses import replace

import numpy as np
import pytest
from conftest import ALL_TO_ALL, make_arrays, make_tokens
from fourm_data_prep.presence import combinations
from test_masking import rows_of

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.tokens import SampleTokens

NUM = 600
GRIDS = {"rgb": 1.0, "depth": 1.0, "code": 1.0}


def with_gaps(modalities, seed: int = 0) -> tuple[SampleTokens, np.ndarray]:
    """Samples that lack half of everything, and their lengths (B, M)."""
    arrays, lengths = make_arrays(modalities, NUM, seed)
    rng = np.random.default_rng(seed)
    gaps = {n: np.where(rng.random(NUM) < 0.5, 0, held) for n, held in lengths.items()}
    tokens = SampleTokens.from_arrays(np.arange(NUM), arrays, gaps)
    return tokens, np.stack([gaps[m.name] for m in modalities], 1)


def test_a_sample_has_an_input_and_a_target_whenever_it_has_something_to_give_and_to_ask(
    modalities,
):
    tokens, lengths = with_gaps(modalities)
    batch = Masker(modalities, ALL_TO_ALL, 0)(tokens, np.arange(NUM))
    asks = (lengths * [m.output for m in modalities]).sum(1)
    assert (batch.decoder.lengths[asks > 0] > 0).all()
    assert (batch.decoder.lengths[asks == 0] == 0).all()
    assert (batch.encoder.lengths[asks > 1] > 0).all()


def test_a_sample_with_everything_has_the_masks_that_it_has_among_complete_ones(modalities):
    whole = make_tokens(modalities, NUM)
    lengths = {n: held.lengths.copy() for n, held in whole.content.items()}
    for held in lengths.values():
        held[::2] = 0
    arrays, _ = make_arrays(modalities, NUM)
    gaps = SampleTokens.from_arrays(np.arange(NUM), arrays, lengths)
    masker = Masker(modalities, ALL_TO_ALL, 1)
    among_gaps, among_whole = masker(gaps, np.arange(NUM)), masker(whole, np.arange(NUM))
    for b in range(1, 40, 2):
        for found, wanted in zip(rows_of(among_gaps, b), rows_of(among_whole, b), strict=True):
            assert np.array_equal(found, wanted)


def test_a_component_that_a_sample_does_not_suit_is_drawn_again_by_the_others_weights(modalities):
    components = (
        MaskingComponent(weight=6.0, input={"caption": 1.0}, target={"boxes": 1.0}),
        MaskingComponent(weight=1.0, input={"rgb": 1.0}, target={"depth": 1.0}),
        MaskingComponent(weight=3.0, input={"depth": 1.0}, target={"rgb": 1.0}),
        MaskingComponent(weight=0.0, input_default=1.0, target={"code": 1.0}),
    )
    config = MaskingConfig(num_inputs=(4, 4), num_targets=(4, 4), components=components)
    arrays, lengths = make_arrays(modalities, 4000)
    lengths["boxes"][:] = 0
    tokens = SampleTokens.from_arrays(np.arange(4000), arrays, lengths)
    counts = dict(
        zip(
            (m.name for m in modalities),
            Masker(modalities, config, 0)(tokens, np.arange(4000)).decoder.counts,
            strict=True,
        )
    )
    assert counts["boxes"] == counts["code"] == 0
    assert counts["rgb"] / (counts["rgb"] + counts["depth"]) == pytest.approx(0.75, abs=0.03)


def test_a_sample_with_one_modality_is_split_between_input_and_target_as_the_budgets_are(
    modalities,
):
    arrays, lengths = make_arrays(modalities, 64)
    only = {n: held if n == "rgb" else 0 * held for n, held in lengths.items()}
    tokens = SampleTokens.from_arrays(np.arange(64), arrays, only)
    component = MaskingComponent(input=GRIDS, target=GRIDS)
    config = MaskingConfig(num_inputs=(30, 30), num_targets=(10, 10), components=(component,))
    batch = Masker(modalities, config, 0)(tokens, np.arange(64))
    assert (batch.encoder.lengths == 12).all()  # three quarters of 16
    assert (batch.decoder.lengths == 4).all()


def test_what_is_lacking_leaves_the_dirichlet_shares_of_the_rest(modalities):
    """The mean input of two present grids, against a draw of those two alone."""
    alpha = {"rgb": 3.0, "depth": 1.0, "code": 2.0}
    component = MaskingComponent(input=alpha, target={"rgb": 1.0, "depth": 1.0})
    config = MaskingConfig(num_inputs=(8, 8), num_targets=(4, 4), components=(component,))
    arrays, lengths = make_arrays(modalities, 4000)
    lengths["code"][:] = 0
    tokens = SampleTokens.from_arrays(np.arange(4000), arrays, lengths)
    without = replace(component, input={"rgb": 3.0, "depth": 1.0})
    found = []
    for components in ((component,), (without,)):
        masker = Masker(modalities, replace(config, components=components), 0)
        encoder = masker(tokens, np.arange(4000)).encoder
        found.append((encoder.modality == modalities.index("rgb")).float().mean().item())
    # tokens that floors leave over are drawn by all shares, which leans a little to the largest
    assert found[0] == pytest.approx(found[1], abs=0.04)


def test_combinations_count_samples_by_what_they_have_in_any_order():
    found = combinations(
        {"rgb": ["0/a", "0/b", "0/c"], "depth": ["0/c", "0/a"], "caption": ["1/a", "0/c"]}
    )
    assert dict(found.counts) == {
        ("rgb", "depth"): 1,
        ("rgb",): 1,
        ("rgb", "depth", "caption"): 1,
        ("caption",): 1,
    }
    assert (found.num_samples, found.of("rgb"), found.of("caption")) == (4, 3, 2)
    assert any("all" in line for line in found.lines())
    assert combinations({}).lines() == [] and combinations({"rgb": []}).num_samples == 0
