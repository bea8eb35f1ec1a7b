"""A call of the pipeline: what was asked for, checked, and the steps that answer it.

Targets are generated one after another, each given the inputs and those before it; what one pass
determines is found together and given the inputs alone, as it comes out worse otherwise. How each
is sampled is said by the call, else by the model (``preferred.py``), else by a first pass
(``automatic.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fourm.codecs import SoftCodec
from fourm.errors import UserError
from fourm.modalities import ModalitySet
from fourm.pipeline import automatic, candidates
from fourm.pipeline.generated import Decoder, Generated, GenerationStep
from fourm.pipeline.given import as_given
from fourm.pipeline.inputs import InputEncoder, Inputs
from fourm.pipeline.preferred import preferred, weighted_as_given
from fourm.pipeline.together import is_determined, is_plain_pass, together
from fourm.sampling.options import SamplingOptions
from fourm.sampling.sampler import Sampler
from fourm.sampling.state import SampleState
from fourm.sampling.task import Step, Steps


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

    def negative(
        self, inputs: Mapping[str, Any] | None, given: SampleState, targets: Any
    ) -> SampleState | None:
        """What is not wanted as the sampler knows it. Raises UserError for a target."""
        if not inputs:
            return None
        values = Inputs.of(inputs, given.num_samples, self.modalities)
        for name in values.values:
            if name in ([targets] if isinstance(targets, str) else targets):
                raise UserError(f"negative names {name}, which is a target: name other modalities")
        if values.num_samples != given.num_samples:
            raise UserError(
                f"negative has {values.num_samples} samples, the call {given.num_samples}"
            )
        return self.encoder.state(values)


@dataclass(frozen=True)
class Call:
    """Targets to generate from inputs."""

    engine: Engine
    targets: Sequence[str]
    values: Inputs
    given: SampleState  # the values as the sampler knows them
    seeds: np.ndarray  # (B,)
    chain: bool | None
    paste: bool
    negative: SampleState | None
    own: Mapping[str, SamplingOptions]  # the model's
    options: Mapping[str, SamplingOptions]  # of some targets
    settings: dict[str, Any]  # of all targets
    form: Callable[[Generated], Any]  # in which results are given

    def __post_init__(self) -> None:
        if not isinstance(self.chain, bool | None):
            raise UserError(f"chain is True or False, not {self.chain!r}")
        if not isinstance(self.paste, bool):
            raise UserError(f"paste is True or False, not {self.paste!r}")
        if self.negative is None and "negative_weight" in self.settings:
            raise UserError("negative_weight is of what is negative: give that, too")

    def steps(self, results: dict[str, Any]) -> Generator[GenerationStep, None, None]:
        """Each step of each target; ``results`` gets the targets as they are finished."""
        state, conditions, left = self.given, self.given.present, list(self.targets)
        while left:
            names = self._next(conditions, left)
            start = self._start(state, names[0])
            if self.engine.encoder.num_whole(start, names[0]) == start.num_samples:
                results[names[0]] = self.form(self._result(start, names[0]))
                del left[0]
                continue
            if len(names) > 1:
                made = yield from self._made_at_once(start, names, conditions)
            else:
                made = yield from self._made(start, conditions, left)
            for name in names:
                results[name] = self.form(self._result(made, name))
            del left[: len(names)]
            if self.chain is not False:
                state, conditions = made, [*conditions, *names]

    def _next(self, conditions: list[str], left: Sequence[str]) -> list[str]:
        """Which of the targets that are left come next: one, or all in a row that one pass finds
        together. Unless that is asked for, only the likeliest are taken so: drawn targets go
        together only where one is given the other.
        """
        names: list[str] = []
        if self.chain is not True and self.negative is None:
            for name in left:
                chosen = self._options(name, conditions, left)
                is_given = name in self.values.values
                if is_given or chosen is None or self.engine.modalities[name].kind == "sequence":
                    break
                if not (is_determined(chosen) if self.chain is None else is_plain_pass(chosen)):
                    break
                names.append(name)
        return names or [left[0]]

    def _made_at_once(
        self, state: SampleState, names: list[str], conditions: list[str]
    ) -> Generator[GenerationStep, None, SampleState]:
        """Targets that one pass finds together."""
        chosen = {name: self._asked_at_once(name, conditions) for name in names}
        made = together(self.engine.sampler, state, chosen, self.seeds)
        for name in names:
            step = Step(1, 1, partial(made.found, name))
            yield GenerationStep(self.engine.modalities[name], step, self.engine.decoder)
        return made

    def _asked_at_once(self, name: str, conditions: list[str]) -> SamplingOptions:
        self._warn_of_strangers(name, conditions)
        chosen = self._options(name, conditions, ())
        assert chosen is not None
        return self._checked(name, chosen)

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
        self, state: SampleState, conditions: list[str], left: Sequence[str]
    ) -> Generator[GenerationStep, None, SampleState]:
        """The first of the targets that are left."""
        name = left[0]
        steps = self._sampling(state, name, conditions, left)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield GenerationStep(self.engine.modalities[name], step, self.engine.decoder)

    def _sampling(
        self, state: SampleState, name: str, conditions: list[str], left: Sequence[str]
    ) -> Steps[SampleState]:
        """Where neither the model nor the call says how, a first pass tells."""
        engine = self.engine
        self._warn_of_strangers(name, conditions)
        chosen = self._options(name, conditions, left)
        if chosen is None:
            mean = isinstance(engine.decoder.codecs[name], SoftCodec)
            return automatic.steps(engine.sampler, state, name, self.seeds, conditions, mean)
        chosen, weights = self._checked(name, chosen), chosen.condition_weights
        if weights and set(weights) <= set(conditions):
            conditions = list(weights)  # what is given beside them stays in all branches
        asked = (state, name, chosen, self.seeds, conditions, self.negative)
        gapped = engine.encoder.given_in_part(state, name)
        if chosen.candidates > 1 and gapped.any():
            return candidates.steps(engine.sampler, *asked, gapped)
        return engine.sampler.steps(*asked)

    def _options(
        self, name: str, conditions: list[str], left: Sequence[str]
    ) -> SamplingOptions | None:
        """As the call says, else the model; None where a first pass is to tell."""
        modalities = self.engine.modalities
        chosen = self.options.get(name) or preferred(self.own, modalities, conditions, name)
        is_said = chosen is not None or self.settings or self.negative is not None
        if not is_said and modalities[name].kind != "sequence":
            return None
        chosen = (chosen or SamplingOptions()).changed(self.settings)
        open_targets = left if len(left) > 1 else ()
        weights = weighted_as_given(chosen.condition_weights, modalities, conditions, open_targets)
        return replace(chosen, condition_weights=weights)

    def _checked(self, name: str, chosen: SamplingOptions) -> SamplingOptions:
        if chosen.decode == "mean" and self.engine.modalities[name].kind != "sequence":
            self.engine.decoder.soft(name)  # refused before anything is generated
        return chosen

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
