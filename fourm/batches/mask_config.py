"""How masks are to be drawn, as a config says it, and as the table that compiled code reads.

A mixture of components (4M, 2312.06647): each shares out a number of input and of target tokens
among modalities. Data sets may have a mixture of their own; the components of all of them lie in
one table, and a sample's component is drawn among those of its data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fourm.batches.mask_rules import NEVER, KeepRule, Rules
from fourm.config import at_least, check_fields
from fourm.errors import UserError
from fourm.modalities import Modality, ModalitySet

Keep = Literal["random", "all", "binary", "none"]
_NO_ALPHA = 1e-9  # in place of 0, of which there is no Gamma draw


@dataclass(frozen=True, kw_only=True)
class MaskingComponent:
    """One way to share out tokens.

    A modality that is not named has alpha ``input_default`` or ``target_default``.
    """

    weight: float = 1.0
    input: dict[str, float] = field(default_factory=dict)  # Dirichlet alpha of each input modality
    target: dict[str, float] = field(default_factory=dict)
    input_default: float = 0.0
    target_default: float = 0.0
    # sequences: which share of an input is kept ("none": one sentinel)
    keep: dict[str, Keep] = field(default_factory=dict)
    num_inputs: tuple[int, int] | None = None  # instead of the mixture's
    num_targets: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        at_least(self, 0, "weight", "input_default", "target_default")
        for name, alpha in (*self.input.items(), *self.target.items()):
            if not alpha >= 0:
                raise UserError(f"the alpha of {name} must be at least 0, not {alpha}")
        for name in ("num_inputs", "num_targets"):
            _check_range(name, getattr(self, name))

    @property
    def names(self) -> set[str]:
        """Modalities that it says something about."""
        return {*self.input, *self.target, *self.keep}

    def can_target(self, modality: Modality) -> bool:
        """True if tokens of the modality can be targets."""
        alpha = self.target.get(modality.name, self.target_default)
        return modality.output and alpha > NEVER


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Numbers of tokens (both ends included) and the mixture of components."""

    num_inputs: tuple[int, int]
    num_targets: tuple[int, int]
    components: tuple[MaskingComponent, ...]
    # False: exactly as 4M, where what a modality cannot use of its share is lost
    redistribute: bool = True

    def __post_init__(self) -> None:
        if not self.components:
            raise UserError("masking needs at least one component")
        for name in ("num_inputs", "num_targets"):
            _check_range(name, getattr(self, name))
        if not any(component.weight for component in self.components):
            raise UserError("all masking components have weight 0: none is ever drawn")
        for number, component in enumerate(self.components, 1):
            if not (component.num_targets or self.num_targets)[1]:
                raise UserError(
                    f"masking component {number} has num_targets [0, 0]: there is nothing to learn"
                )

    @property
    def most_rows(self) -> tuple[int, int]:
        """Most input and most target tokens of a sample, whichever component is drawn."""
        inputs = [(c.num_inputs or self.num_inputs)[1] for c in self.components]
        targets = [(c.num_targets or self.num_targets)[1] for c in self.components]
        return max(inputs), max(targets)

    @property
    def names(self) -> set[str]:
        """Modalities that some component says something about."""
        return {name for component in self.components for name in component.names}

    def check(self, modalities: ModalitySet) -> None:
        """Raise UserError where a component names an unknown modality or one that cannot have that
        role, or can never give a target.
        """
        for number, component in enumerate(self.components, 1):
            for name in component.names:
                modalities.index(name)
            for name, alpha in component.input.items():
                if alpha > NEVER and not modalities[name].input:
                    raise UserError(f"masking: {name} is no input modality")
            for name, alpha in component.target.items():
                if alpha > NEVER and not modalities[name].output:
                    raise UserError(f"masking: {name} is no output modality")
            if not any(component.can_target(m) for m in modalities):
                raise UserError(
                    f"masking component {number} never gives a target: no output modality has an"
                    " alpha above 0 (target, target_default)"
                )


def _check_range(name: str, limits: tuple[int, int] | None) -> None:
    if limits is not None and not 0 <= limits[0] <= limits[1]:
        raise UserError(f"{name} must be a range [low, high] of tokens, not {list(limits)}")


def rules_of(modalities: ModalitySet, maskings: Sequence[MaskingConfig]) -> Rules:
    """The maskings of S data sets as one table of all their components."""
    parts = [c for masking in maskings for c in masking.components]
    of = [masking for masking in maskings for _ in masking.components]
    inputs = [
        [_alpha(c.input, c.input_default, m.name, m.input) for m in modalities] for c in parts
    ]
    targets = [
        [_alpha(c.target, c.target_default, m.name, m.output) for m in modalities] for c in parts
    ]
    keep = [[KeepRule[c.keep.get(m.name, "random")] for m in modalities] for c in parts]
    return Rules(
        first=np.cumsum([0, *(len(masking.components) for masking in maskings)]),
        thresholds=np.concatenate([_thresholds(masking) for masking in maskings]),
        input_alpha=np.array(inputs),
        target_alpha=np.array(targets),
        num_inputs=np.array([c.num_inputs or m.num_inputs for c, m in zip(parts, of, strict=True)]),
        num_targets=np.array(
            [c.num_targets or m.num_targets for c, m in zip(parts, of, strict=True)]
        ),
        keep=np.array(keep, np.int64),
        redistribute=np.array([masking.redistribute for masking in of]),
        is_sequence=np.array([m.kind == "sequence" for m in modalities]),
        chunk_size=np.array([m.chunk_size for m in modalities]),
    )


def _thresholds(masking: MaskingConfig) -> np.ndarray:
    """Where the share of each component ends, of a number in (0, 1)."""
    weights = np.array([c.weight for c in masking.components])
    return np.cumsum(weights / weights.sum())


def _alpha(table: dict[str, float], default: float, name: str, allowed: bool) -> float:
    """A Dirichlet parameter; one that is never drawn where the modality cannot have the role."""
    return max(table.get(name, default), _NO_ALPHA) if allowed else _NO_ALPHA
