"""Killed, and started on other ranks and workers, a training learns from the same stream."""

from __future__ import annotations

import pytest
from soak import BATCH, soak

pytest.importorskip("aiohttp")


@pytest.mark.parametrize(
    "kills, steps", [(2, 14), pytest.param(8, 60, marks=pytest.mark.slow)], ids=["few", "more"]
)
def test_a_training_that_is_killed_and_goes_on_otherwise_makes_the_stream_of_an_undisturbed_one(
    tmp_path, kills, steps
):
    figures = soak(tmp_path, kills, steps)
    assert figures["draws"] == steps * BATCH and figures["made_again"] > 0
