"""How one target is sampled: scheme, steps, schedules, filters, guidance."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field, fields, replace
from typing import Any

from fourm.config import check_fields, from_mapping
from fourm.errors import UserError, nearest
from fourm.sampling.schedules import (
    GuidanceSchedule,
    TemperatureSchedule,
    TokenSchedule,
    guidance_at,
    temperature_at,
)
from fourm.sampling.schemes import Entropy, MaskGIT, Scheme

# Up to release 0.4.0 settings of schemes stood beside the scheme: whose they are, and which
_EARLIER_KEYS: dict[str, tuple[type[Scheme], str]] = {
    "confidence_noise": (MaskGIT, "noise"),
    "remask": (MaskGIT, "remask"),
    "entropy_bound": (Entropy, "bound"),
}


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of one target modality. Sequences are always decoded left to right; ``scheme``,
    ``steps`` and ``schedule`` are for grids and sets.

    From Python as from YAML, ``scheme`` may also be a name (``"halton"``) or a mapping
    (``{"type": "maskgit", "noise": 2.0}``).
    """

    scheme: Scheme = field(default_factory=MaskGIT)
    steps: int = 12
    schedule: TokenSchedule = "cosine"  # tokens committed at each step
    temperature: float = 1.0
    temperature_end: float | None = None  # what it falls to by the last step; None = constant
    temperature_schedule: TemperatureSchedule = "linear"
    top_k: int = 0  # 0 = off
    top_p: float = 1.0  # 1 = off
    guidance_scale: float = 1.0  # 1 = no guidance
    guidance_schedule: GuidanceSchedule = "constant"
    # several weighted conditions instead of all together
    condition_weights: dict[str, float] = field(default_factory=dict)
    # names of earlier releases for settings of the scheme; nothing is stored under them
    confidence_noise: InitVar[float | None] = None
    entropy_bound: InitVar[float | None] = None
    remask: InitVar[float | None] = None

    def __post_init__(
        self, confidence_noise: float | None, entropy_bound: float | None, remask: float | None
    ) -> None:
        earlier = {
            "confidence_noise": confidence_noise,
            "entropy_bound": entropy_bound,
            "remask": remask,
        }
        earlier = {key: value for key, value in earlier.items() if value is not None}
        _refuse_beside_a_mapping(self.scheme, earlier)
        check_fields(self)
        object.__setattr__(self, "scheme", _with_earlier_keys(self.scheme, earlier))
        self._check_ranges()

    def _check_ranges(self) -> None:
        numbers = {f.name: getattr(self, f.name) for f in fields(self)}
        weights = {f"condition_weights.{name}": w for name, w in self.condition_weights.items()}
        for name, value in (numbers | weights).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value}")
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, not {self.steps}")
        if self.top_k < 0:
            raise UserError(f"top_k must be at least 0 (0 = off), not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be more than 0 and at most 1, not {self.top_p}")
        for name in ("temperature", "temperature_end"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UserError(f"{name} must be at least 0, not {value}")

    @classmethod
    def read(cls, data: Any, where: str) -> SamplingOptions:
        """Options from a mapping such as an entry of generation.yaml, those that earlier releases
        wrote included; ``where`` begins every error message.
        """
        if not isinstance(data, dict):
            return from_mapping(cls, data, where)  # which says so
        earlier = {key: value for key, value in data.items() if key in _EARLIER_KEYS}
        now = {key: value for key, value in data.items() if key not in _EARLIER_KEYS}
        options = from_mapping(cls, now, where)
        try:
            _refuse_beside_a_mapping(data.get("scheme"), earlier)
            return replace(options, **earlier)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    def changed(self, settings: dict[str, Any]) -> SamplingOptions:
        """A copy with other settings. Raises UserError where one is unknown or wrong."""
        known = [f.name for f in fields(self)]
        for name in settings:
            if name not in known and name not in _EARLIER_KEYS:
                near = nearest(name, known)
                raise UserError(
                    f"unknown sampling option {name!r}; known are {', '.join(known)}{near}"
                )
        return replace(self, **settings)

    def temperature_at(self, step: int, num_tokens: int = 196) -> float:
        """Temperature of one step of a target of ``num_tokens``."""
        if self.temperature_end is None:
            return self.temperature
        return temperature_at(
            self.temperature_schedule,
            self.temperature,
            self.temperature_end,
            step,
            self.steps,
            num_tokens,
        )

    def guidance_at(self, step: int, num_steps: int) -> float:
        """Guidance scale of one of ``num_steps`` steps."""
        return guidance_at(self.guidance_schedule, self.guidance_scale, step, num_steps)


def _refuse_beside_a_mapping(scheme: Any, earlier: dict[str, Any]) -> None:
    """A scheme with its own settings has no others beside it: which would hold?"""
    if earlier and isinstance(scheme, dict):
        key = next(iter(earlier))
        _, name = _EARLIER_KEYS[key]
        raise UserError(
            f"{key} stands beside a scheme that has settings of its own; give {name} there"
        )


def _with_earlier_keys(scheme: Scheme, earlier: dict[str, Any]) -> Scheme:
    """The scheme with what earlier releases kept beside it.

    Their files hold the settings of all schemes, so another scheme's are passed over where they
    are its defaults, and contradict the choice of a scheme where they are not.
    """
    for key, value in earlier.items():
        owner, name = _EARLIER_KEYS[key]
        if isinstance(scheme, owner):
            scheme = replace(scheme, **{name: value})
        elif value != getattr(owner(), name):
            raise UserError(
                f"{key} is a setting of the scheme {owner.type_name}, and the scheme is"
                f" {scheme.type_name}; choose scheme: {{type: {owner.type_name}, {name}: {value}}}"
                f" or leave {key} out"
            )
    return scheme
