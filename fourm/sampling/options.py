"""How one target is sampled: scheme, steps, schedules, filters, guidance, sweeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from fourm.config import at_least, check_fields, from_mapping
from fourm.errors import UserError, nearest
from fourm.sampling.earlier_options import upgraded
from fourm.sampling.schedules import TemperatureSchedule, TokenSchedule, temperature_at
from fourm.sampling.schemes import InOrder, MaskGIT, Scheme

# what is past these is a slip of the pen, and some of it overflows
_MOST_STEPS, _MOST_GUIDANCE, _TEMPERATURES = 10_000, 1_000.0, (1e-4, 1e4)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How the tokens of a finished grid or set are asked again (``sweeps.py``)."""

    parts: int = 4  # asked one after another, each given everything outside of it
    temperature: float = 0.3
    order: Scheme | None = None  # deals tokens into parts; None = halton, for sets roar

    def __post_init__(self) -> None:
        check_fields(self)
        at_least(self, 1, "parts")
        _check_temperature(self, "temperature")
        if not isinstance(self.order, InOrder | None):
            raise UserError(
                f"the order of a sweep must be known in advance; that of {self.order.type_name}"
                " is not: choose halton, roar or raster"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of one target modality. Sequences are always decoded left to right; ``scheme``,
    ``steps``, ``schedule``, sweeps and ``decode`` are for grids and sets.

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
    # several weighted conditions instead of all together
    condition_weights: dict[str, float] = field(default_factory=dict)
    # of what is not wanted, beside the conditions; None = it stands for "nothing given"
    negative_weight: float | None = None
    sweeps: int = 0  # how often all tokens are asked again, given all others
    sweep: Sweep = field(default_factory=Sweep)
    # fillings of a sequence's gaps that are drawn; the likeliest whole stays (of pipelines)
    candidates: int = 1
    most_of_gap: int = 0  # ids that each gap of a sequence gets at most; 0 = what there is room for
    # what is decoded: the ids, or the mean of all codes under the network's probabilities
    decode: Literal["ids", "mean"] = "ids"

    def __post_init__(self) -> None:
        check_fields(self)
        numbers = {f.name: getattr(self, f.name) for f in fields(self)}
        weights = {f"condition_weights.{name}": w for name, w in self.condition_weights.items()}
        for name, value in (numbers | weights).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, not {value}")
        at_least(self, 1, "steps", "candidates")
        at_least(self, 0, "top_k", "sweeps", "most_of_gap")
        for name in ("steps", "sweeps", "candidates"):
            if getattr(self, name) > _MOST_STEPS:
                raise UserError(f"{name} must be at most {_MOST_STEPS}, not {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be more than 0 and at most 1, not {self.top_p}")
        _check_temperature(self, "temperature", "temperature_end")
        weights |= {"guidance_scale": self.guidance_scale, "negative_weight": self.negative_weight}
        for name, value in weights.items():
            if abs(value or 0) > _MOST_GUIDANCE:
                raise UserError(
                    f"{name} must be from {-_MOST_GUIDANCE:g} to {_MOST_GUIDANCE:g}, not {value}"
                )

    @classmethod
    def read(cls, data: Any, where: str) -> SamplingOptions:
        """Options from a mapping such as an entry of generation.yaml, those that earlier releases
        wrote included; ``where`` begins every error message.
        """
        try:
            data = upgraded(data, MaskGIT()) if isinstance(data, dict) else data
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return from_mapping(cls, data, where)

    def changed(self, settings: dict[str, Any]) -> SamplingOptions:
        """A copy with other settings. Raises UserError where one is unknown or wrong."""
        known = [f.name for f in fields(self)]
        settings = upgraded(settings, self.scheme)
        for name in settings:
            if name not in known:
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


def _check_temperature(config: Any, *names: str) -> None:
    least, most = _TEMPERATURES
    for name in names:
        value = getattr(config, name)
        if value is not None and value != 0 and not least <= value <= most:
            raise UserError(f"{name} must be 0 or from {least:g} to {most:g}, not {value}")
