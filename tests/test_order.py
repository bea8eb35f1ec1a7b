"""Promises about the order of samples that are read in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm.data.order import BlockOrder, Permutation, SampleOrder, WindowedPermutation, epoch_order


def an_epoch(num, order, epoch=0, seed=0):
    return WindowedPermutation(num, seed, order)(np.full(num, epoch), np.arange(num))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 9), st.integers(0, 1000))
def test_each_epoch_has_every_sample_once_and_a_window_has_few_blocks(num, block, window, epoch):
    samples = an_epoch(num, BlockOrder(block=block, window=window), epoch)
    np.testing.assert_array_equal(np.sort(samples), np.arange(num))
    # the blocks of windows, told by a slow look at the whole epoch: whole blocks, in turn
    left = {int(b): min(block, num - b * block) for b in np.unique(samples // block)}
    at = 0
    while at < num:
        # a window has come to its end when all blocks that it began are finished
        open_blocks: dict[int, int] = {}
        while at < num and (len(open_blocks) == 0 or any(open_blocks.values())):
            number = int(samples[at]) // block
            open_blocks.setdefault(number, left[number])
            open_blocks[number] -= 1
            at += 1
        assert len(open_blocks) <= window


def test_any_place_is_found_without_those_before_it():
    order = WindowedPermutation(10_007, 3, BlockOrder(block=100, window=7))
    whole = order(np.full(10_007, 5), np.arange(10_007))
    places = np.array([9_999, 0, 4_321, 10_006, 700])
    np.testing.assert_array_equal(order(np.full(5, 5), places), whole[places])
    np.testing.assert_array_equal(
        order(np.full(5, 5), places)[[2]], order(np.array([5]), places[[2]])
    )


def test_epochs_and_seeds_differ():
    order = BlockOrder(block=10, window=3)
    first = an_epoch(1_000, order)
    assert (first != an_epoch(1_000, order, epoch=1)).mean() > 0.9
    assert (first != an_epoch(1_000, order, seed=1)).mean() > 0.9


def test_a_window_of_all_blocks_is_as_random_as_the_full_shuffle():
    num = 50_000
    full = Permutation(num, 0)(np.zeros(num), np.arange(num))
    for samples in (full, an_epoch(num, BlockOrder(block=500, window=1_000))):
        assert abs(np.abs(samples - np.arange(num)).mean() / num - 1 / 3) < 0.01
        assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.02


def test_every_block_is_first_and_last_about_equally_often():
    order = WindowedPermutation(95, 0, BlockOrder(block=10, window=2))
    epochs = np.arange(20_000)
    for place in (0, 94):
        counts = np.bincount(order(epochs, np.full(20_000, place)) // 10, minlength=10)
        share = counts / 20_000
        assert abs(share[9] - 2 / 10 * 5 / 15) < 0.005, "in the window, then of its 15 samples"
        assert abs(share[:9] - (1 - 2 / 10 * 5 / 15) / 9).max() < 0.012


def test_sources_without_blocks_keep_the_order_they_always_had():
    draws = np.arange(5_000)
    before = SampleOrder([100, 1_000], [1.0, 2.0], 7)(draws)
    after = SampleOrder([100, 1_000], [1.0, 2.0], 7, blocks=[BlockOrder(block=8, window=2), None])(
        draws
    )
    np.testing.assert_array_equal(before.source, after.source)
    of_second = before.source == 1
    np.testing.assert_array_equal(before.sample[of_second], after.sample[of_second])
    assert (before.sample[~of_second] != after.sample[~of_second]).any()
    assert isinstance(epoch_order(10, 0, None), Permutation)


def test_resuming_far_into_a_mixture_needs_nothing_of_before():
    blocks = [BlockOrder(block=64, window=4), None]
    whole = SampleOrder([3_001, 500], [3.0, 1.0], 1, blocks=blocks)
    drawn = whole.drawn_before(40_000)
    rest = SampleOrder(
        [3_001, 500],
        [3.0, 1.0],
        1,
        40_000 // 4096 * 4096,
        whole.drawn_before(40_000 // 4096 * 4096).tolist(),
        blocks,
    )
    draws = np.arange(40_000, 41_000)
    np.testing.assert_array_equal(whole(draws).sample, rest(draws).sample)
    assert drawn.sum() == 40_000


@pytest.mark.parametrize("wrong", [{"block": 0}, {"window": 0}])
def test_blocks_and_windows_hold_something(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        BlockOrder(**wrong)
