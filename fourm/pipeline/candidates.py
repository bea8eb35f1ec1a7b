"""Gaps of a sequence by choice: several fillings are drawn, and the one stays whose whole the model
finds likeliest given all other inputs.

A gap is told from left to right, and a model may have seen few sequences with gaps. How likely a
whole caption is given a picture it has learned best, and that needs no gap (``scoring.py``): the
fillings are proposals, the likelihood decides, as importance resampling with one survivor. The
first is drawn as the options say, the others at temperature ``WIDE``, so that the right one is
among them. Shapes: B samples, L ids.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm.pipeline.scoring import Scorer
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Steps

WIDE = 1.5  # temperature of the fillings after the first
_AT_ONCE = 256  # fillings that are drawn or scored at a time


def steps(
    sampler: Sampler,
    state: SampleState,
    name: str,
    options: SamplingOptions,
    seeds: np.ndarray,
    conditions: list[str],
    negative: SampleState | None,
    gapped: np.ndarray,
) -> Steps[SampleState]:
    """As ``Sampler.steps`` for a sequence; samples where ``gapped`` (B,) get the likeliest of
    ``options.candidates`` fillings.
    """
    found = yield from sampler.steps(state, name, options, seeds, conditions, negative)
    wide = replace(options, temperature=WIDE, top_k=0, top_p=1.0)
    each = options.candidates - 1
    at_once = max(1, _AT_ONCE // each)
    open_samples = np.flatnonzero(gapped)
    for start in range(0, len(open_samples), at_once):
        samples = open_samples[start : start + at_once]
        rows = np.repeat(samples, each)
        number = np.tile(np.arange(1, each + 1), len(samples))
        drawn = sampler.generate(
            taken(state, rows),
            name,
            wide,
            seeds[rows] ^ (number << 50),  # of none of the samples
            conditions,
            None if negative is None else taken(negative, rows),
        ).sequences[name]
        for i, sample in enumerate(samples.tolist()):
            fillings = [found.sequences[name][sample], *drawn[i * each : (i + 1) * each]]
            found.sequences[name][sample] = _likeliest(sampler, state, name, sample, fillings)
    return found


def _likeliest(
    sampler: Sampler, state: SampleState, name: str, sample: int, fillings: list[np.ndarray]
) -> np.ndarray:
    """The first of the fillings of one sample with the largest likelihood of the whole."""
    different = list({filling.tobytes(): filling for filling in fillings}.values())
    if len(different) == 1:
        return different[0]
    others = taken(state, np.full(len(different), sample))
    del others.sequences[name]
    scores = Scorer(sampler.model).score(others, sampler.modalities[name], different)
    return different[int(scores.argmax())]


def taken(state: SampleState, samples: np.ndarray) -> SampleState:
    """A state of some samples (n,) of another, any number of times each."""
    return SampleState(
        len(samples),
        {
            name: GridState(grid.values[samples], grid.known[samples])
            for name, grid in state.grids.items()
        },
        {name: [ids[i] for i in samples.tolist()] for name, ids in state.sequences.items()},
    )
