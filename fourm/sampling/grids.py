"""Grids and sets: tokens are found in any order, several at a step.

One loop for all schemes: they name the positions that are asked and say which answers stay. Sweeps
follow. Shapes: B samples, n positions, V ids.
"""

from __future__ import annotations

import numpy as np

from fourm.errors import UserError
from fourm.sampling.asking import Draw, Question, ask, commit
from fourm.sampling.schemes import Canvas
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.sweeps import sweep_grid
from fourm.sampling.task import Step, Steps, Task


def generate_grid(task: Task, state: SampleState) -> Steps[GridState]:
    """The target with all its tokens known; those that ``state`` gives are kept.

    Raises UserError where the scheme leaves tokens open, or does not suit the target.
    """
    options, scheme = task.options, task.options.scheme
    grid = started(task, state)
    # the encoder sees the target as it grows
    state = SampleState(state.num_samples, {**state.grids, task.target.name: grid}, state.sequences)
    canvas = Canvas(
        modality=task.target,
        schedule=options.schedule,
        steps=options.steps,
        rng=task.rng,
        seeds=task.seeds,
        given=grid.known.copy(),
        known=grid.known,
        greedy=options.temperature == 0,
    )
    for step in range(options.steps):
        if grid.known.all():
            break
        sample, position = np.nonzero(scheme.ask(canvas, step) & ~grid.known)
        if not len(sample):
            continue
        temperature = options.temperature_at(step, task.target.num_tokens)
        draw = Draw(task.rng, step, temperature)
        (answers,) = ask(state, Question(task, sample, position, draw))
        commit(grid, answers, scheme.keep(canvas, step, answers))
        yield Step(step + 1, options.steps + options.sweeps * options.sweep.parts, lambda: grid)
    if not grid.known.all():
        raise UserError(
            f"the scheme {scheme.type_name} left {(~grid.known).sum()} tokens of"
            f" {task.target.name} open after {options.steps} steps"
        )
    yield from sweep_grid(task, state, grid, canvas)
    return grid


def started(task: Task, state: SampleState) -> GridState:
    """The target as given, in arrays of its own; with nothing given, all open."""
    given = state.grids.get(task.target.name)
    shape = (state.num_samples, task.target.num_tokens)
    values, known = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    if given is not None:
        values, known = given.values.copy(), given.known.copy()
    probability = None
    if task.options.decode == "mean":  # what is given is certain
        probability = np.zeros((*shape, task.target.vocab_size), np.float32)
        np.put_along_axis(probability, values[..., None], 1.0, axis=2)
    return GridState(values, known, np.zeros(shape), probability)
