"""The sampler: any modality from any others, a target at a time.

Grids and sets (``grids.py``) are filled in the order of a scheme (``schemes.py``) and swept where
that is asked for (``sweeps.py``); sequences (``sequences.py``) go from left to right. The result is
a function of (weights, inputs, seeds): it does not depend on batch size, neighbours or any global
generator (``draws.py``).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fourm.errors import UserError
from fourm.item_form import ItemForm
from fourm.modalities import SENTINEL_ID
from fourm.model.model import FourM
from fourm.sampling.grids import generate_grid
from fourm.sampling.guidance import Guidance
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sequences import generate_sequences
from fourm.sampling.state import SampleState
from fourm.sampling.task import Steps, Task, last_of

_NUM_SENTINELS = 200  # of a vocabulary that does not say


class Sampler:
    """Generates modalities with one model."""

    def __init__(
        self,
        model: FourM,
        num_sentinels: dict[str, int] | None = None,
        form_of: Callable[[str], ItemForm | None] = lambda name: None,
    ) -> None:
        """``num_sentinels``: how many ids of each sequence modality mark gaps. ``form_of``: that of
        the items of a sequence modality, where it has one.
        """
        self.model = model.eval()
        self.modalities = model.modalities
        self._num_sentinels, self._form_of = num_sentinels or {}, form_of

    def generate(
        self,
        state: SampleState,
        target: str,
        options: SamplingOptions,
        seeds: np.ndarray,
        conditions: list[str],
        negative: SampleState | None = None,
    ) -> SampleState:
        """Generate one target for every sample; returns a new state in which it is known.

        Args:
            seeds: (B,) seed of each sample.
            conditions: modalities that guidance strengthens (given inputs, usually); the rest of
                the state stays in all branches.
            negative: what takes their place in the branch from which guidance leads away.
        """
        return last_of(self.steps(state, target, options, seeds, conditions, negative))

    @torch.inference_mode()
    def steps(
        self,
        state: SampleState,
        target: str,
        options: SamplingOptions,
        seeds: np.ndarray,
        conditions: list[str],
        negative: SampleState | None = None,
    ) -> Steps[SampleState]:
        """``generate`` as an iterator: goes on with each step that is asked for."""
        m = self.modalities[target]
        if not m.output:
            known = ", ".join(output.name for output in self.modalities.outputs)
            raise UserError(f"{target} is no output of this model; it has {known}")
        present = [name for name in conditions if name != target and name in state.present]
        task = Task(self.model, m, options, _guidance(options, present, negative), seeds)
        result = SampleState(state.num_samples, dict(state.grids), dict(state.sequences))
        if m.kind == "sequence":
            last_sentinel = SENTINEL_ID + self._num_sentinels.get(target, _NUM_SENTINELS) - 1
            result.sequences[target] = yield from generate_sequences(
                task, state, last_sentinel, self._form_of(target)
            )
        else:
            result.grids[target] = yield from generate_grid(task, state)
        return result


def _guidance(
    options: SamplingOptions, conditions: list[str], negative: SampleState | None
) -> Guidance:
    """The branches that the options ask for."""
    weight = options.negative_weight
    if negative is not None and weight is None:
        if options.condition_weights or options.guidance_scale == 1.0:
            raise UserError(
                "what is negative acts by guidance: set guidance_scale to more than 1, or say"
                " negative_weight"
            )
        return Guidance.between(conditions, negative)
    if options.condition_weights:
        guidance = Guidance.weighted(conditions, options.condition_weights)
    elif options.guidance_scale == 1.0 or not conditions:
        guidance = Guidance.off()
    else:
        guidance = Guidance.between(conditions)
    return guidance.away_from(negative, conditions, weight) if negative and weight else guidance
