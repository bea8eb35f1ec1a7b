"""Classifier-free guidance (2207.12598) with one or several weighted conditions, and away from what
is not wanted.

All branches, each of which leaves out some modalities, go through the network in one pass, on the
same positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.errors import UserError
from fourm.sampling.state import Branch, SampleState


@dataclass(frozen=True)
class Guidance:
    """Branches of one forward pass and how their logits combine.

    Guided logits are u + scale (c - u), or u + sum of w_i (c_i - u): the branch u sees none of the
    conditions, c all of them, c_i the i-th alone.
    """

    branches: list[Branch]
    constant: list[float]  # weight of each branch: constant + scale * slope
    slope: list[float]

    @classmethod
    def off(cls) -> Guidance:
        """One branch that sees everything."""
        return cls([Branch()], [1.0], [0.0])

    @classmethod
    def between(cls, conditions: list[str], negative: SampleState | None = None) -> Guidance:
        """All conditions together against none, or against what is not wanted in their place."""
        branches = [Branch(), Branch(frozenset(conditions), negative)]
        return cls(branches, [0.0, 1.0], [1.0, -1.0])

    @classmethod
    def weighted(cls, conditions: list[str], weights: dict[str, float]) -> Guidance:
        """Each weighted condition alone against none; their weights stand for the scale."""
        for name in weights:
            if name not in conditions:
                raise UserError(
                    f"condition_weights names {name!r}, which is not given; given are"
                    f" {', '.join(conditions)}"
                )
        everything = frozenset(conditions)
        alone = [Branch(everything - {name}) for name in weights]
        constant = [1 - sum(weights.values()), *weights.values()]
        return cls([Branch(everything), *alone], constant, [0.0] * len(constant))

    def away_from(self, negative: SampleState, conditions: list[str], weight: float) -> Guidance:
        """The same less weight (n - u): n sees ``negative`` in place of the conditions."""
        nothing = Branch(frozenset(conditions))
        branches, constant, slope = [*self.branches], [*self.constant], [*self.slope]
        if nothing not in branches:
            branches, constant, slope = [*branches, nothing], [*constant, 0.0], [*slope, 0.0]
        constant[branches.index(nothing)] += weight
        instead = Branch(nothing.dropped, negative)
        return Guidance([*branches, instead], [*constant, -weight], [*slope, 0.0])

    @property
    def num_branches(self) -> int:
        """Passes that are combined, run as one batch."""
        return len(self.branches)

    def combine(self, rows: Tensor, scale: float) -> Tensor:
        """Decoder output of all branches, one after another (branches * n, D) -> guided (n, D).

        Heads are linear, so logits of guided rows are guided logits, for one product instead of one
        a branch.
        """
        if self.num_branches == 1:
            return rows
        weights = [c + scale * s for c, s in zip(self.constant, self.slope, strict=True)]
        branches = rows.float().unflatten(0, (self.num_branches, -1))
        weight = torch.tensor(weights, device=rows.device)
        return torch.einsum("b,bnd->nd", weight, branches).to(rows.dtype)
