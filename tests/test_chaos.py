"""Whatever happens to a training, it learns from the same stream with the same losses."""

from __future__ import annotations

import pytest
from chaos import (
    EVENTS,
    KillRank,
    KillWorker,
    SpoilCache,
    SpoilCheckpoint,
    chaos,
    says_a_traceback,
)
from disturbed import Event

pytest.importorskip("aiohttp")


def test_a_traceback_of_pythons_own_thread_is_not_an_ending():
    first = "[rank1]: Traceback (most recent call last):\n[rank1]:   File "
    own = first + '"/usr/lib/python3.11/multiprocessing/resource_sharer.py", line 138, in _serve\n'
    ours = first + '"/somewhere/fourm/training/loop.py", line 1, in run\n'
    assert not says_a_traceback("") and not says_a_traceback(own)
    assert says_a_traceback(ours) and says_a_traceback(own + ours)


@pytest.mark.parametrize(
    "kinds, steps",
    [
        ([KillRank(), KillWorker(), SpoilCheckpoint(), SpoilCache()], 30),
        pytest.param(EVENTS, 60, marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_events_happen_and_losses_are_bit_for_bit_those_of_an_undisturbed_run(
    tmp_path, kinds: list[Event], steps: int
):
    # machines that run tests are busy
    figures = chaos(tmp_path, len(kinds), steps, [2], seed=1, patience=10, kinds=kinds)
    assert figures["events"] == len(kinds) and figures["largest difference of a loss"] == 0.0
    assert figures["starts with a traceback"] == 0
