"""Sweeps: tokens that are found leave the encoder again, part by part, and are asked for anew given
everything else.

A committed token can be taken out of an encoder-decoder's input without a trace, so what a sweep
draws from are the model's own conditionals: Gibbs sampling, a position at a time where there are as
many parts as tokens, in blocks with fewer. What an order drew too early, given too little, is
repaired (2605.22765 does this with decoders). At temperature 0 a sample that a sweep left as it was
is done: all sweeps deal alike there, so nothing would ever change. Shapes: B samples, n positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm.numbers.ragged import ranks
from fourm.sampling.asking import Draw, Question, ask, commit
from fourm.sampling.draws import target_rng
from fourm.sampling.options import Sweep
from fourm.sampling.schemes import ROAR, Canvas, Halton, InOrder
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Step, Steps, Task


def sweep_grid(task: Task, state: SampleState, grid: GridState, canvas: Canvas) -> Steps[None]:
    """Sweep over ``grid``, which is part of ``state`` and was filled on ``canvas``, in place; what
    was given stays.
    """
    options, sweep = task.options, task.options.sweep
    num_steps = options.steps + options.sweeps * sweep.parts
    settled = np.zeros(len(task.seeds), dtype=bool)
    for number in range(options.sweeps):
        stays = canvas.given | settled[:, None]
        if stays.all():
            break
        before = grid.values.copy()
        rng = target_rng(task.target.name, number if sweep.temperature else 0)
        part_of = deal(sweep, replace(canvas, rng=rng, given=stays, known=stays))
        for part in range(sweep.parts):
            sample, position = np.nonzero(part_of == part)
            if len(sample):
                grid.known[sample, position] = False
                draw = Draw(rng, part, sweep.temperature)
                (answers,) = ask(state, Question(task, sample, position, draw))
                commit(grid, answers)
            done = options.steps + number * sweep.parts + part + 1
            yield Step(done, num_steps, lambda: grid)
        settled |= (sweep.temperature == 0) & (grid.values == before).all(1)


def deal(sweep: Sweep, canvas: Canvas) -> np.ndarray:
    """The part (B, n) in which each position is asked, -1 = in none, for those that are known.

    Parts of a sample are of equal size, up to one token.
    """
    order = sweep.order or (Halton() if canvas.modality.grid else ROAR())
    assert isinstance(order, InOrder)
    rank = ranks(np.where(canvas.known, np.inf, order.order(canvas)))
    num_open = (~canvas.known).sum(1, keepdims=True)
    return np.where(canvas.known, -1, rank * sweep.parts // np.maximum(num_open, sweep.parts))
