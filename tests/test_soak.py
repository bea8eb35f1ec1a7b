"""Killed, and started on other ranks and workers, a training learns from the same stream."""

from __future__ import annotations

import pytest
from soak import soak

pytest.importorskip("aiohttp")


@pytest.mark.slow
def test_a_training_that_is_killed_and_goes_on_otherwise_makes_the_stream_of_an_undisturbed_one(
    tmp_path,
):
    figures = soak(tmp_path, kills=4, steps=36)
    assert figures["draws"] == 36 * 24 and figures["made_again"] > 0
