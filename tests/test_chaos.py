"""Whatever happens to a training, it learns from the same stream with the same losses."""

from __future__ import annotations

import pytest
from chaos import EVENTS, chaos

pytest.importorskip("aiohttp")


@pytest.mark.slow
def test_everything_happens_once_and_losses_are_bit_for_bit_those_of_an_undisturbed_run(tmp_path):
    figures = chaos(tmp_path, events=len(EVENTS), steps=50, ranks=[2], seed=1)
    assert figures["events"] == len(EVENTS) and figures["largest difference of a loss"] == 0.0
    assert figures["starts with a traceback"] == 0
