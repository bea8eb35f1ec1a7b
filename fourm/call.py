"""A call of the pipeline: what was asked for, checked, and the steps that answer it.

Targets are generated one after another, each given the inputs and those before it. How each is
sampled is said by the call, else by the model (``preferred.py``), else by a first pass
(``automatic.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fourm import automatic
from fourm.codecs import SoftCodec
from fourm.errors import UserError
from fourm.generated import Decoder, Generated, GenerationStep
from fourm.given import as_given
from fourm.inputs import InputEncoder, Inputs
from fourm.modalities import ModalitySet
from fourm.preferred import preferred, weighted_as_given
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import SampleState
from fourm.sampling.task import Steps


@dataclass(frozen=True)
class Engine:
    """What answers calls: the sampler, and ways into and out of its state."""

    sampler: Sampler
    encoder: InputEncoder
    decoder: Decoder

    @property
    def modalities(self) -> ModalitySet:
        """Of the model."""
        return self.sampler.modalities


@dataclass(frozen=True)
class Call:
    """Targets to generate from inputs."""

    engine: Engine
    targets: Sequence[str]
    values: Inputs
    given: SampleState  # the values as the sampler knows them
    seeds: np.ndarray  # (B,)
    chain: bool
    paste: bool
    own: Mapping[str, SamplingOptions]  # the model's
    options: Mapping[str, SamplingOptions]  # of some targets
    settings: dict[str, Any]  # of all targets
    form: Callable[[Generated], Any]  # in which results are given

    def __post_init__(self) -> None:
        for name in ("chain", "paste"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name} is True or False, not {getattr(self, name)!r}")

    def steps(self, results: dict[str, Any]) -> Generator[GenerationStep, None, None]:
        """Each step of each target; ``results`` gets the targets as they are finished."""
        state, conditions = self.given, self.given.present
        for i, name in enumerate(self.targets):
            start = self._start(state, name)
            if self.engine.encoder.num_whole(start, name) == start.num_samples:
                results[name] = self.form(self._result(start, name))
                continue
            is_last = i + 1 == len(self.targets)
            open_targets = () if is_last else self.targets[i:]
            made = yield from self._made(start, name, conditions, open_targets)
            results[name] = self.form(self._result(made, name))
            if self.chain:
                state, conditions = made, [*conditions, name]

    def _start(self, state: SampleState, name: str) -> SampleState:
        start = self.engine.encoder.with_whole(state, self.values, name)
        if self.engine.encoder.num_whole(start, name):
            warnings.warn(
                f"{name} is a target and given whole: it stays as it is given. Leave it out of"
                " the inputs to generate it, or give a part of it",
                stacklevel=5,
            )
        return start

    def _made(
        self, state: SampleState, name: str, conditions: list[str], open_targets: Sequence[str]
    ) -> Generator[GenerationStep, None, SampleState]:
        """One target more."""
        target, decoder = self.engine.modalities[name], self.engine.decoder
        steps = self._sampling(state, name, conditions, open_targets)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield GenerationStep(target, step, decoder)

    def _sampling(
        self, state: SampleState, name: str, conditions: list[str], open_targets: Sequence[str]
    ) -> Steps[SampleState]:
        """Where neither the model nor the call says how, a first pass tells."""
        engine, modalities = self.engine, self.engine.modalities
        self._warn_of_strangers(name, conditions)
        chosen = self.options.get(name) or preferred(self.own, modalities, conditions, name)
        is_sequence = modalities[name].kind == "sequence"
        if chosen is None and not self.settings and not is_sequence:
            mean = isinstance(engine.decoder.codecs[name], SoftCodec)
            return automatic.steps(engine.sampler, state, name, self.seeds, conditions, mean)
        chosen = (chosen or SamplingOptions()).changed(self.settings)
        weights = weighted_as_given(chosen.condition_weights, modalities, conditions, open_targets)
        chosen = replace(chosen, condition_weights=weights)
        if weights and set(weights) <= set(conditions):
            conditions = list(weights)  # what is given beside them stays in all branches
        if chosen.decode == "mean" and not is_sequence:
            engine.decoder.soft(name)  # refused before anything is generated
        return engine.sampler.steps(state, name, chosen, self.seeds, conditions)

    def _warn_of_strangers(self, name: str, conditions: Sequence[str]) -> None:
        known = self.engine.sampler.model.provenance
        if known is None or not known.trained:
            return  # old folders have no record
        strangers = [c for c in conditions if c not in (name, *known.trained.get(name, ()))]
        if strangers:
            warnings.warn(
                f"{name} was never learned from {', '.join(strangers)}: what this model makes of"
                " that is chance. Leave it out, or train it with a mixture that has both",
                stacklevel=7,
            )

    def _result(self, state: SampleState, name: str) -> Generated:
        """With given pixels where they were given."""
        result = self.engine.decoder.decode(state.found(name), name)
        given = self.values.values.get(name)
        if given is None or not self.paste:
            return result
        pairs = zip(given, result.values, strict=True)
        return replace(result, values=[as_given(g, result.modality, v) for g, v in pairs])


def as_called_here(settings: dict[str, Any], seed: Any) -> tuple[dict[str, Any], Any]:
    """Settings and seed of a call that may use the names of diffusers, which a call alone reads.
    Raises UserError where one thing is said twice.
    """
    ours = dict(settings)
    generator = ours.pop("generator", None)
    if generator is not None:
        if not isinstance(seed, int) or seed != 0:
            raise UserError("seed and generator are two names of one thing: give one of them")
        seed = generator
    if "num_inference_steps" in ours:
        if "steps" in ours:
            raise UserError("steps and num_inference_steps are two names of one thing: give one")
        ours["steps"] = ours.pop("num_inference_steps")
    return ours, seed


def checked_targets(targets: Any, options: Any, modalities: ModalitySet) -> Sequence[str]:
    """Targets of a call, whose options are theirs. Raises UserError."""
    targets = [targets] if isinstance(targets, str) else targets
    if not isinstance(targets, Sequence):
        raise UserError(f"targets are names in an order, e.g. ['depth', 'rgb'], not {targets!r}")
    if not isinstance(options or {}, Mapping):
        raise UserError(f"options map targets to SamplingOptions, they are not {options!r}")
    if not targets:
        raise UserError("no targets: name at least one modality to generate")
    for name in (*targets, *(options or {})):
        if not modalities[name].output:
            raise UserError(
                f"{name} cannot be generated; outputs are"
                f" {', '.join(m.name for m in modalities.outputs)}"
            )
    for name, chosen in (options or {}).items():
        if name not in targets:
            raise UserError(
                f"options name {name}, which is no target of this call; targets are"
                f" {', '.join(targets)}"
            )
        if not isinstance(chosen, SamplingOptions):
            raise UserError(f"options of {name} must be SamplingOptions, not {chosen!r}")
    if len(set(targets)) < len(targets):
        raise UserError(f"a target is named twice: {', '.join(targets)}")
    return targets
