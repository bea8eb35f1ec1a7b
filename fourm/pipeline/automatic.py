"""Sampling where nobody said how: one pass tells which kind of question it is.

What the inputs determine (depth from a picture) is best taken from one pass, as the mean of all
codes under its probabilities: every further step makes it worse. What they leave open (a picture
from a caption) is drawn in Halton order and swept once. The two lie apart in the first pass's mean
entropy, measured on the demo's model as a share of the most there can be: 0.07 to 0.19 from a
picture to depth, normals and classes, 0.27 from classes to depth, 0.49 and more to a picture
(docs/sampling.md). Each sample is judged by itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.schemes import ROAR, Halton
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Steps

DETERMINED = 0.25  # mean entropy below this share of log(vocabulary)
ONCE = SamplingOptions(scheme=ROAR(), steps=1, temperature=0.0)
DRAWN = SamplingOptions(scheme=Halton(), steps=8, temperature_end=0.3, sweeps=1)


def _once(mean: bool) -> SamplingOptions:
    """One pass; ``mean``: the target's codec decodes mean codes."""
    return replace(ONCE, decode="mean" if mean else "ids")


def steps(
    sampler: Sampler,
    state: SampleState,
    target: str,
    seeds: np.ndarray,
    conditions: list[str],
    mean: bool,
) -> Steps[SampleState]:
    """``Sampler.steps`` of a grid or set with the settings that suit each sample.

    ``mean``: the target's codec decodes mean codes.
    """
    m = sampler.modalities[target]
    drawn = DRAWN if m.grid is not None else replace(DRAWN, scheme=ROAR())
    first = yield from sampler.steps(state, target, _once(mean), seeds, conditions)
    grid = first.grids[target]
    undetermined = np.flatnonzero(_share(grid, state.grids.get(target), m.vocab_size) > DETERMINED)
    if not len(undetermined):
        return first
    part = _samples(state, undetermined)
    found = yield from sampler.steps(part, target, drawn, seeds[undetermined], conditions)
    _put(grid, undetermined, found.grids[target])
    return first


def settings(
    sampler: Sampler,
    state: SampleState,
    target: str,
    seeds: np.ndarray,
    conditions: list[str],
    mean: bool,
) -> tuple[SamplingOptions, GridState | None]:
    """Those that suit most of the samples of a grid; where that is one pass also what it found."""
    m = sampler.modalities[target]
    once = _once(mean)
    grid = sampler.generate(state, target, once, seeds, conditions).grids[target]
    share = _share(grid, state.grids.get(target), m.vocab_size)
    return (DRAWN, None) if np.median(share) > DETERMINED else (once, grid)


def _share(grid: GridState, given: GridState | None, vocab_size: int) -> np.ndarray:
    """Mean entropy (B,) of what was generated, as a share of the most there can be."""
    assert grid.entropy is not None
    asked = np.ones_like(grid.known) if given is None else ~given.known
    return (grid.entropy * asked).sum(1) / np.maximum(asked.sum(1), 1) / np.log(vocab_size)


def _samples(state: SampleState, which: np.ndarray) -> SampleState:
    """Some samples of a state."""
    return SampleState(
        len(which),
        {name: GridState(g.values[which], g.known[which]) for name, g in state.grids.items()},
        {name: [ids[i] for i in which] for name, ids in state.sequences.items()},
    )


def _put(grid: GridState, which: np.ndarray, found: GridState) -> None:
    """Replace some samples of a grid by what was found for them; their codes are their ids'."""
    assert grid.entropy is not None
    grid.values[which], grid.entropy[which] = found.values, found.entropy
    if grid.probability is not None:
        certain = np.zeros_like(grid.probability[which])
        np.put_along_axis(certain, found.values[..., None], 1.0, axis=2)
        grid.probability[which] = certain
