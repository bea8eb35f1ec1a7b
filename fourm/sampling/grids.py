"""Grids and sets: tokens are found in any order, several at a step.

One loop for all schemes. The encoder sees what is known, the decoder is asked at the positions that
the scheme names, and the scheme says which answers stay. Shapes: B samples, n positions, a answers.
"""

from __future__ import annotations

import numpy as np

from fourm.batch import MASK_QUERY, StreamRows
from fourm.errors import UserError
from fourm.sampling.choose import choose
from fourm.sampling.draws import Purpose
from fourm.sampling.schemes import Answers, Canvas
from fourm.sampling.state import GridState, SampleState
from fourm.sampling.task import Task


def generate_grid(task: Task, state: SampleState) -> GridState:
    """The target with all its tokens known; those that ``state`` gives are kept.

    Raises UserError where the scheme leaves tokens open, or does not suit the target.
    """
    options, scheme = task.options, task.options.scheme
    grid = _started(task, state)
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
        log_p=np.full(grid.known.shape, np.inf),
    )
    for step in range(options.steps):
        if grid.known.all():
            break
        sample, position = np.nonzero(scheme.ask(canvas, step) & ~grid.known)
        if not len(sample):
            continue
        answers = _answers(task, state, sample, position, step)
        stays = scheme.keep(canvas, step, answers)
        place = sample[stays], position[stays]
        grid.values[place] = answers.ids[stays]
        grid.known[place] = True
        canvas.log_p[place] = answers.log_p[stays]
        if not canvas.is_last(step):
            grid.known &= canvas.given | ~scheme.take_back(canvas, step)
        task.report(step + 1, options.steps)
    if not grid.known.all():
        raise UserError(
            f"the scheme {scheme.type_name} left {(~grid.known).sum()} tokens of"
            f" {task.target.name} open after {options.steps} steps"
        )
    return grid


def _started(task: Task, state: SampleState) -> GridState:
    """The target as given, in arrays of its own; with nothing given, all open."""
    given = state.grids.get(task.target.name)
    if given is not None:
        return GridState(given.values.copy(), given.known.copy())
    shape = (state.num_samples, task.target.num_tokens)
    return GridState(np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool))


def _answers(
    task: Task, state: SampleState, sample: np.ndarray, position: np.ndarray, step: int
) -> Answers:
    """What the network draws at positions (a,) of samples (a,)."""
    options, modalities = task.options, task.model.modalities
    num_branches = task.guidance.num_branches
    rows = StreamRows(state.num_samples * num_branches)
    query = np.full(len(sample), MASK_QUERY)
    for branch in range(num_branches):
        rows.add(
            task.index,
            sample + branch * state.num_samples,
            position,
            query,
            np.zeros_like(query),
        )
    causal = np.array([m.kind == "sequence" for m in modalities])
    stream = task.on_device(rows.decoder(causal))
    hidden = task.model.decode(task.encode(state), stream)
    uniform = task.rng.uniform(task.seeds[sample], Purpose.TOKEN, step, position)
    drawn = choose(
        task.logits(hidden, step, options.steps),
        task.tensor(uniform),
        options.temperature_at(step, task.target.num_tokens),
        options.top_k,
        options.top_p,
    )
    ids, log_p, entropy = (t.cpu().numpy() for t in drawn)
    return Answers(sample, position, ids, log_p.astype(np.float64), entropy.astype(np.float64))
