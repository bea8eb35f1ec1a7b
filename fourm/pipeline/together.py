"""Several grids and sets that take one pass each, in one pass of encoder and decoder for all.

The decoder sees no target from another, so that what is found of each is what a pass of its own
finds, given the same inputs. Depth, normals and classes of a picture cost 10 CPU milliseconds so,
14 as a chain, in which each is given those before it, and are better (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fourm.sampling.asking import Draw, Question, ask, commit
from fourm.sampling.grids import started
from fourm.sampling.guidance import Guidance
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.schemes import InOrder
from fourm.sampling.state import SampleState
from fourm.sampling.task import Task


def is_one_pass(options: SamplingOptions) -> bool:
    """True where all tokens of a grid or set are asked once, at the same time."""
    return options.steps == 1 and not options.sweeps


def is_plain_pass(options: SamplingOptions) -> bool:
    """True where that pass needs no branch but one, and all of its answers stay."""
    is_guided = options.guidance_scale != 1.0 or options.condition_weights
    return is_one_pass(options) and isinstance(options.scheme, InOrder) and not is_guided


def is_determined(options: SamplingOptions) -> bool:
    """True where that pass takes the likeliest ids: what it finds need not be given one another."""
    return is_plain_pass(options) and options.temperature == 0.0


@torch.inference_mode()
def together(
    sampler: Sampler, state: SampleState, targets: Mapping[str, SamplingOptions], seeds: np.ndarray
) -> SampleState:
    """A state in which targets of plain passes are known, each as ``Sampler.generate`` makes it of
    ``state`` alone. ``seeds`` (B,) are of the samples.
    """
    tasks = [
        Task(sampler.model, sampler.modalities[name], options, Guidance.off(), seeds)
        for name, options in targets.items()
    ]
    grids = {task.target.name: started(task, state) for task in tasks}
    questions = []
    for task, grid in zip(tasks, grids.values(), strict=True):
        sample, position = np.nonzero(~grid.known)
        draw = Draw(task.rng, 0, task.options.temperature)
        questions.append(Question(task, sample, position, draw))
    for grid, answers in zip(grids.values(), ask(state, *questions), strict=True):
        commit(grid, answers)
    return SampleState(state.num_samples, {**state.grids, **grids}, dict(state.sequences))
