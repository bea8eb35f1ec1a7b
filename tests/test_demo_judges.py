"""The judges of generated pictures see what is there, on renders that neither has been shown."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.demo.judge import PixelJudge, colored_pieces
from fourm.demo.render import render
from fourm.demo.solid_judge import DEFORMED, SolidJudge, damaged_pieces
from fourm.demo.world import describe, make_scenes

SIZE = 48


@pytest.fixture(scope="module")
def renders():
    scenes = make_scenes(991, np.arange(200))
    solids = [[(color, shape) for _, color, shape in describe(scenes, i)] for i in range(200)]
    return render(scenes, SIZE).rgb, solids


@pytest.fixture(scope="module")
def judge():
    return SolidJudge(SIZE)


def test_both_judges_see_the_solids_of_real_renders(renders, judge):
    assert PixelJudge(SIZE).attribute_accuracy(*renders) >= 0.97
    assert judge.attribute_accuracy(*renders) >= 0.97


def test_the_second_judge_rejects_deformed_solids_and_the_first_does_not(renders, judge):
    rng = np.random.default_rng(5)
    named: list[str] = []
    for i, picture in enumerate(renders[0]):
        for _, mask in colored_pieces(picture):
            for damaged, piece in damaged_pieces(rng, picture, mask, i):
                named += judge.name_pieces(damaged, [piece])
    rejected = np.mean([name == DEFORMED for name in named])
    assert len(named) > 200 and rejected >= 0.8


def test_noise_and_empty_pictures_hold_no_solid(judge):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    assert judge.look(noise) == [] and judge.look(np.full_like(noise, 128)) == []
