"""Masking: pure function of (seed, draw), exact spans, disjoint inputs and targets, no padding, the
budgets asked for.
"""

import numpy as np
import pytest
from conftest import ALL_TO_ALL, make_arrays, make_tokens

from fourm.batches.batch import MASK_QUERY
from fourm.batches.budgets import draw_budgets
from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.spans import literal, target_of, write_input
from fourm.batches.tokens import Ragged, SampleTokens
from fourm.errors import UserError
from fourm.modalities import FIRST_SENTINEL, PAD_ID, ModalitySet
from fourm.numbers.compiled_rng import along
from tests.masking_reference import mask_sample


def take(tokens: SampleTokens, rows) -> SampleTokens:
    content = {
        name: Ragged(held.parts, held.part[rows], held.starts[rows], held.lengths[rows])
        for name, held in tokens.content.items()
    }
    return SampleTokens(tokens.samples[rows], content)


def rows_of(batch, b):
    """Encoder and decoder rows of sample b as comparable arrays."""
    e, d = batch.encoder, batch.decoder
    i, n = e.lengths[:b].sum(), e.lengths[b]
    j, m = d.lengths[:b].sum(), d.lengths[b]
    encoder = np.stack([t[i : i + n].numpy() for t in (e.modality, e.position, e.token)])
    decoder = np.stack([t[j : j + m].numpy() for t in (d.modality, d.position, d.input, d.target)])
    return encoder, decoder


def test_masks_of_a_sample_do_not_depend_on_its_batch(modalities, masker):
    tokens = make_tokens(modalities, 32)
    draws = np.arange(100, 132)
    together = masker(tokens, draws)
    for b in (0, 7, 31):
        alone = masker(take(tokens, slice(b, b + 1)), draws[b : b + 1])
        for one, many in zip(rows_of(alone, 0), rows_of(together, b), strict=True):
            assert np.array_equal(one, many)


def test_another_draw_or_seed_gives_other_masks(modalities, masker):
    tokens = make_tokens(modalities, 1)
    first = rows_of(masker(tokens, np.array([0])), 0)[0]
    assert not np.array_equal(first, rows_of(masker(tokens, np.array([1])), 0)[0])
    assert not np.array_equal(
        first, rows_of(Masker(modalities, ALL_TO_ALL, seed=4)(tokens, np.array([0])), 0)[0]
    )


def test_inputs_and_targets_of_an_image_never_overlap_and_are_true_tokens(modalities, masker):
    ids, _ = make_arrays(modalities, 64, lacking="depth")
    batch = masker(make_tokens(modalities, 64, lacking="depth"), np.arange(64))
    for b in range(64):
        encoder, decoder = rows_of(batch, b)
        for name in ("rgb", "depth", "code"):
            i = modalities.index(name)
            given, wanted = encoder[:, encoder[0] == i], decoder[:, decoder[0] == i]
            assert not set(given[1]) & set(wanted[1])
            assert len(set(wanted[1])) == wanted.shape[1]
            assert np.array_equal(ids[name][b][given[1]], given[2])
            assert np.array_equal(ids[name][b][wanted[1]], wanted[3])
            assert (wanted[2] == MASK_QUERY).all()
            if name == "depth" and b % 2 == 0:
                assert not given.size and not wanted.size


def test_every_budget_is_used_up_where_tokens_are_left(modalities, masker):
    """Redistribution: a sample has as many tokens as asked for unless everything it may use is
    used.
    """
    tokens = make_tokens(modalities, 256)
    config = MaskingConfig(
        num_inputs=(20, 20),
        num_targets=(16, 16),
        components=(MaskingComponent(input_default=0.3, target_default=0.3),),
    )
    batch = Masker(modalities, config, 0)(tokens, np.arange(256))
    assert (batch.encoder.lengths == 20).mean() > 0.98
    assert (batch.decoder.lengths == 16).all()


def test_a_target_that_is_too_long_gives_a_window_of_its_own_ids(modalities):
    alpha = {"rgb": 1.0, "boxes": 1.0}
    component = MaskingComponent(input=alpha, target={"boxes": 50.0})
    config = MaskingConfig(num_inputs=(10, 10), num_targets=(6, 6), components=(component,))
    arrays, lengths = make_arrays(modalities, 500, 0, "")
    arrays["boxes"] = np.random.default_rng(0).integers(40, 120, (500, 18))
    lengths["boxes"] = np.full(500, 18)
    tokens = SampleTokens.from_arrays(np.arange(500), arrays, lengths)
    decoder = Masker(modalities, config, 0)(tokens, np.arange(500)).decoder
    assert (decoder.target != PAD_ID).all() and (decoder.input != PAD_ID).all()
    first = decoder.input[decoder.position == 0]
    assert len(first) > 400 and len(first.unique()) > 2, "windows begin at any span"


def test_reference_mode_discards_what_a_clamp_cuts_off(modalities):
    tokens = make_tokens(modalities, 256)
    component = MaskingComponent(input={"code": 100.0}, target_default=0.5)
    config = MaskingConfig(
        num_inputs=(20, 20), num_targets=(16, 16), components=(component,), redistribute=False
    )
    batch = Masker(modalities, config, 0)(tokens, np.arange(256))
    assert (batch.encoder.lengths == modalities["code"].num_tokens).all()


def test_budgets_are_distributed_like_the_rule_drawn_one_by_one():
    """Floors of a Dirichlet share, each token left over to the largest share of a fresh draw: mean
    and spread over 20,000 draws.
    """
    alpha, total = np.array([3.0, 4.0, 1.0]), 12
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(20000):
        budget = np.floor(rng.dirichlet(alpha) * total).astype(int)
        for _ in range(total - budget.sum()):
            budget[rng.dirichlet(alpha).argmax()] += 1
        expected.append(budget)
    expected = np.array(expected)
    never, states = np.array([3.0, 4.0, 1.0, 1e-9]), np.zeros(4, np.uint64)
    drawn, log_share = np.zeros((20000, 4), np.int64), np.zeros(4)
    for draw in range(20000):
        states[:] = [along(np.uint64(draw), i) for i in range(4)]
        draw_budgets(never, total, states, log_share, drawn[draw])
    assert (drawn.sum(1) == total).all() and (drawn[:, 3:] == 0).all()
    assert np.allclose(drawn[:, :3].mean(0), expected.mean(0), atol=0.06)  # four standard errors
    assert np.allclose(drawn[:, :3].std(0), expected.std(0), rtol=0.03)


def naive_spans(ids, keep, given):
    """The span rule of 4M, one token at a time."""
    if not given:
        return [], [FIRST_SENTINEL, *ids, FIRST_SENTINEL + 1]
    shown, target, number, open_ = [], [], 0, False
    for token, kept in zip(ids, keep, strict=False):
        if kept:
            shown.append(token)
            open_ = False
            continue
        if not open_:
            shown.append(FIRST_SENTINEL + number)
            target.append(FIRST_SENTINEL + number)
            number, open_ = number + 1, True
        target.append(token)
    return shown, [*target, FIRST_SENTINEL + number]


def test_spans_equal_the_token_by_token_rule():
    rng = np.random.default_rng(0)
    for _ in range(200):
        ids = rng.integers(50, 90, rng.integers(1, 12))
        given = rng.random() < 0.8
        keep = (rng.random(len(ids)) < rng.random()) & given
        shown, target = naive_spans(ids.tolist(), keep, given)
        read = lambda contents: [ids[c] if c >= 0 else literal(c) for c in contents]  # noqa: B023, E731
        content, opens = np.zeros(2 * len(ids) + 2, np.int64), np.zeros(2 * len(ids) + 2, bool)
        last = target_of(~keep, 0, content, opens)
        assert read(content[: last + 1]) == target
        if given:
            write_input(~keep, 0, np.zeros(len(content), np.int64), content, 0)
            assert read(content[: len(shown)]) == shown


def test_chunks_of_a_sequence_are_kept_or_hidden_together(modalities):
    arrays, lengths = make_arrays(modalities, 64)
    tokens = make_tokens(modalities, 64)
    component = MaskingComponent(input={"boxes": 100.0}, target={"boxes": 1.0})
    config = MaskingConfig(num_inputs=(18, 18), num_targets=(30, 30), components=(component,))
    batch = Masker(modalities, config, 0)(tokens, np.arange(64))
    for b in range(64):
        encoder, _ = rows_of(batch, b)
        shown = [t for t in encoder[2] if t > FIRST_SENTINEL + 16]
        ids = arrays["boxes"][b, : lengths["boxes"][b]].tolist()
        kept = [ids[i : i + 3] for i in range(0, len(ids), 3)]
        position = 0
        for chunk in kept:
            if shown[position : position + len(chunk)] == chunk:
                position += len(chunk)
        assert position == len(shown)


@pytest.mark.parametrize("wrong", [{"input": {"colour": 1.0}}, {"target": {"pixels": 1.0}}])
def test_a_config_that_names_a_wrong_modality_is_refused(modalities, wrong):
    config = MaskingConfig(
        num_inputs=(1, 2), num_targets=(1, 2), components=(MaskingComponent(**wrong),)
    )
    with pytest.raises(ValueError, match="colour|pixels"):
        Masker(modalities, config, 0)


def test_in_4m_mode_budgets_and_spans_have_the_reference_s_distributions():
    """20,000 draws each of the fast masker and of a plain, sequential one: means within 4.5
    standard errors, tails within 0.02.
    """
    grid = {"kind": "grid", "raw": {"type": "image", "size": 32}, "vocab_size": 512, "grid": [7, 7]}
    text = {"kind": "sequence", "raw": {"type": "text"}, "vocab_size": 2000, "max_tokens": 30}
    pixels = {"kind": "continuous", "raw": {"type": "image", "size": 28}, "patch_size": 4}
    modalities = ModalitySet.from_mapping(
        {"modalities": {"rgb": pixels, "a": grid, "b": grid, "caption": text, "det": text}}
    )
    names = ("a", "b", "caption", "det")
    components = (
        MaskingComponent(input={"rgb": 1000.0}, target=dict.fromkeys(names, 0.5)),
        MaskingComponent(
            input=dict.fromkeys((*names, "rgb"), 0.5),
            target=dict.fromkeys(names, 0.5),
            keep={"det": "binary"},
        ),
        MaskingComponent(
            weight=0.5,
            input={"caption": 5.0, "a": 0.05},
            target=dict.fromkeys(names, 0.1),
            keep={"caption": "all"},
        ),
    )
    config = MaskingConfig(
        num_inputs=(20, 60), num_targets=(40, 40), components=components, redistribute=False
    )
    num = 20_000
    rng = np.random.default_rng(0)
    lengths = {name: rng.integers(3, 31, num) for name in ("caption", "det")}
    ids = {name: rng.integers(300, 2000, (num, 30)) for name in lengths}
    grids = {name: rng.integers(0, 512, (num, 49)) for name in ("a", "b")}
    tokens = SampleTokens.from_arrays(
        np.arange(num),
        {**ids, **grids, "rgb": np.zeros((num, 49, 1), np.float32)},
        {**lengths, "a": np.full(num, 49), "b": np.full(num, 49), "rgb": np.full(num, 49)},
    )
    batch = Masker(modalities, config, seed=1)(tokens, np.arange(num))
    order = [m.name for m in modalities]
    fast = np.zeros((num, len(order), 3))
    sample_in, sample_out = (
        np.repeat(np.arange(num), s.lengths) for s in (batch.encoder, batch.decoder)
    )
    np.add.at(fast, (sample_in, batch.encoder.modality.numpy(), 0), 1)
    np.add.at(fast, (sample_out, batch.decoder.modality.numpy(), 1), 1)
    token = batch.encoder.token.numpy()
    is_sentinel = (token >= FIRST_SENTINEL) & (token < FIRST_SENTINEL + 199)
    is_text = np.isin(batch.encoder.modality.numpy(), [order.index("caption"), order.index("det")])
    np.add.at(fast, (sample_in, batch.encoder.modality.numpy(), 2), is_sentinel & is_text)
    plain = np.zeros_like(fast)
    for i in range(num):
        drawn = mask_sample(
            rng, modalities, config, {name: ids[name][i, : lengths[name][i]] for name in lengths}
        )
        plain[i] = [drawn[name] for name in order]
    error = np.sqrt((fast.var(0) + plain.var(0)) / num) + 1e-9
    assert (np.abs(fast.mean(0) - plain.mean(0)) < 4.5 * error).all()
    for statistic in range(3):
        for m in range(len(order)):
            values = np.arange(0, 61, 3)
            tail = lambda x: (x[:, m, statistic][:, None] > values).mean(0)  # noqa: B023, E731
            assert np.abs(tail(fast) - tail(plain)).max() < 0.02, (order[m], statistic)
    assert (
        np.abs(
            np.corrcoef(fast[:, 1, 0], fast[:, 3, 0]) - np.corrcoef(plain[:, 1, 0], plain[:, 3, 0])
        ).max()
        < 0.04
    )


def test_an_unknown_rule_of_keeping_is_refused_from_python_too():
    with pytest.raises(
        UserError, match=r"keep\.caption: 'al' is not one of .*; did you mean 'all'"
    ):
        MaskingComponent(keep={"caption": "al"})
