"""Adaptive mixtures: sources and mask components are drawn more while they are being learned, less
once they are known or cannot be.

Every ``every`` steps each member of the mixture is probed with fixed held-out batches. What a
member has left to learn is the loss it still has, relative to its loss at the first probe: r =
(loss - first) / first, from 0 (as at the start) to -1 (known). Shares are q ~ p exp(strength * r)
around the configured shares p, mixed with ``floor`` of p and never more than ``cap`` times p.

Hard is not useful: noise and wrong labels stay hard. So a member whose loss has stopped falling
over ``window`` updates counts as known (r = -1), which the baseline ``rule: loss``, shares in
proportion to the losses, lacks. The rule is ours; JAR (2305.19924) names adaptive sampling and
gives no formula, DoReMi (2305.10429) is the related published idea.

Shares change at fixed steps and only there: between two updates the order of samples and the masks
are the pure functions of the draw that they always are, and what is needed to go on (``state``) is
a few numbers in the checkpoint. A resumed run repeats the run that was not interrupted bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fourm.batches.masking import MaskingConfig
from fourm.data.order import BlockOrder, SampleOrder
from fourm.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """How the shares of a mixture follow what is being learned."""

    of: Literal["sources", "components", "both"] = "sources"
    every: int = 100  # steps between updates
    strength: float = 2.0
    floor: float = 0.1  # share of the configured mixture that is always kept
    cap: float = 4.0  # most that a share grows to, in configured shares
    window: int = 2  # updates over which a loss must have fallen
    min_slope: float = 0.01  # by this share of itself
    probe_samples: int = 64  # held-out samples of each source and of each component
    rule: Literal["progress", "loss"] = "progress"

    def __post_init__(self) -> None:
        if self.every < 1 or self.window < 1 or self.probe_samples < 1:
            raise UserError("adaptive: every, window and probe_samples must be at least 1")
        if not 0 <= self.floor <= 1 or self.cap < 1:
            raise UserError("adaptive: floor must be between 0 and 1, cap at least 1")


def adapted_shares(base: np.ndarray, losses: np.ndarray, config: AdaptiveConfig) -> np.ndarray:
    """Shares (n,) from the configured ones (n,) and the losses of all probes so far (updates, n),
    oldest first.
    """
    base, latest = base / base.sum(), losses[-1]
    if config.rule == "loss":
        wanted = base * latest
    else:
        left = np.clip((latest - losses[0]) / losses[0], -1.0, 1.0)
        if len(losses) > config.window:
            stuck = losses[-1 - config.window] - latest < config.min_slope * latest
            left = np.where(stuck, -1.0, left)
        wanted = base * np.exp(config.strength * left)
    shares = (1 - config.floor) * wanted / wanted.sum() + config.floor * base
    for _ in range(len(base)):  # what the cap takes away goes to the others
        over = shares > config.cap * base
        if not over.any() or over.all():
            break
        shares[over] = (config.cap * base)[over]
        shares[~over] *= (1 - shares[over].sum()) / shares[~over].sum()
    return shares


@dataclass(frozen=True)
class Member:
    """A component of a masking, as a member of that masking's mixture."""

    source: int  # number of the first source that is masked so
    number: int  # of the component within its masking
    masking: MaskingConfig

    @property
    def weight(self) -> float:
        """The configured one."""
        return self.masking.components[self.number].weight

    @property
    def alone(self) -> MaskingConfig:
        """The masking with this component alone."""
        return replace(self.masking, components=(self.masking.components[self.number],))


@dataclass
class Mixture:
    """Shares of sources and mask components, since when they hold, and the probes that led to
    them.
    """

    sizes: list[int]  # samples of each source
    weights: list[float]
    maskings: list[MaskingConfig]  # of each source; equal ones are one mixture of components
    seed: int
    batch_size: int
    adaptive: AdaptiveConfig | None = None
    blocks: list[BlockOrder | None] = field(default_factory=list)  # of each source; none: no blocks
    step: int = 0  # first step of the current shares
    drawn: list[int] = field(default_factory=list)  # samples of each source before that
    source_shares: list[float] = field(default_factory=list)
    component_shares: list[float] = field(default_factory=list)
    source_losses: list[list[float]] = field(default_factory=list)  # of each probe
    component_losses: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.drawn = self.drawn or [0] * len(self.sizes)
        self.source_shares = self.source_shares or list(self.weights)
        self.component_shares = self.component_shares or [member.weight for member in self.members]

    def order(self) -> SampleOrder:
        """Samples from the current step on."""
        return SampleOrder(
            self.sizes,
            self.source_shares,
            self.seed,
            self.step * self.batch_size,
            self.drawn,
            self.blocks,
        )

    @property
    def members(self) -> list[Member]:
        """All components, those of one masking together."""
        distinct = [m for i, m in enumerate(self.maskings) if self.maskings.index(m) == i]
        return [
            Member(self.maskings.index(masking), number, masking)
            for masking in distinct
            for number in range(len(masking.components))
        ]

    def masks(self) -> list[MaskingConfig]:
        """The masking of each source, in which components have their current shares."""
        shares: dict[int, list[float]] = {}
        for member, share in zip(self.members, self.component_shares, strict=True):
            shares.setdefault(member.source, []).append(share)
        return [with_shares(m, shares[self.maskings.index(m)]) for m in self.maskings]

    @property
    def moves_sources(self) -> bool:
        """True if shares of sources follow what is learned."""
        return (
            self.adaptive is not None and self.adaptive.of != "components" and len(self.sizes) > 1
        )

    @property
    def moves_components(self) -> bool:
        """True if shares of mask components follow what is learned."""
        return (
            self.adaptive is not None
            and self.adaptive.of != "sources"
            and any(len(masking.components) > 1 for masking in self.maskings)
        )

    def update(self, step: int, of_sources: list[float], of_components: list[float]) -> None:
        """Take the losses of a probe after ``step`` steps; an empty list leaves that mixture as it
        is.
        """
        assert self.adaptive is not None and step > self.step
        self.drawn = self.order().drawn_before(step * self.batch_size).tolist()
        self.step = step
        if of_sources:
            self.source_losses.append(of_sources)
            self.source_shares = adapted_shares(
                np.array(self.weights), np.array(self.source_losses), self.adaptive
            ).tolist()
        if of_components:
            self.component_losses.append(of_components)
            of = np.array([member.source for member in self.members])
            base = np.array([member.weight for member in self.members])
            losses, shares = np.array(self.component_losses), np.zeros(len(of))
            for source in np.unique(of):
                at = of == source
                shares[at] = adapted_shares(base[at], losses[:, at], self.adaptive)
            self.component_shares = shares.tolist()

    _STATE = (
        "step",
        "drawn",
        "source_shares",
        "component_shares",
        "source_losses",
        "component_losses",
    )

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises UserError where the checkpoint had other sources or components."""
        if len(state["drawn"]) != len(self.sizes) or len(state["component_shares"]) != len(
            self.component_shares
        ):
            raise UserError(
                f"the checkpoint has a mixture of {len(state['drawn'])} sources and"
                f" {len(state['component_shares'])} mask components, the config"
                f" {len(self.sizes)} and {len(self.component_shares)}: use another output folder"
            )
        for name in self._STATE:
            setattr(self, name, state[name])


def with_shares(masking: MaskingConfig, shares: list[float]) -> MaskingConfig:
    """The masking with these weights of its components."""
    return replace(
        masking,
        components=tuple(
            replace(c, weight=w) for c, w in zip(masking.components, shares, strict=True)
        ),
    )
