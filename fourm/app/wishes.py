"""Settings in plain words, and what they mean for each target.

What is not wished for stays the model's own: no wish at all is no setting at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fourm.errors import UserError
from fourm.modalities import Modality
from fourm.pipeline.automatic import DRAWN
from fourm.pipeline.pipeline import AnyToAnyPipeline
from fourm.pipeline.preferred import preferred
from fourm.sampling.options import SamplingOptions
from fourm.sampling.schemes import ROAR

OWN = "as the model prefers"
# temperatures; the likeliest answer is the same for every seed
VARIETY = {OWN: None, "none": 0.0, "little": 0.3, "some": 0.7, "much": 1.0}
# factor of the steps, sweeps more
QUALITY = {"fast": (0.5, -1), "default": (1.0, 0), "thorough": (2.0, 1)}
_ONE_STEP = 1  # what the inputs determine is taken in one step, and more make it worse


@dataclass(frozen=True)
class Wishes:
    """How a visitor wants targets to be made; None = as the model prefers."""

    follow: float | None = None  # guidance scale
    variety: str = OWN
    quality: str = "default"

    @classmethod
    def of(cls, follow: Any, variety: Any, quality: Any) -> Wishes:
        """From what stands on the page. Raises UserError."""
        if variety not in VARIETY:
            raise UserError(f"variety is one of {', '.join(VARIETY)}, not {variety!r}")
        if quality not in QUALITY:
            raise UserError(f"quality is one of {', '.join(QUALITY)}, not {quality!r}")
        return cls(_scale(follow), variety, quality)

    def options(self, preferred: SamplingOptions | None, m: Modality) -> SamplingOptions | None:
        """Settings of one target; None where nothing is wished that concerns it."""
        wished: dict[str, Any] = {}
        base = preferred or _plain(m)
        if self.follow is not None:
            wished["guidance_scale"] = self.follow
        temperature = VARIETY[self.variety]
        if temperature is not None:
            wished |= {"temperature": temperature, "temperature_end": None}
        factor, sweeps = QUALITY[self.quality]
        if self.quality != "default" and m.kind != "sequence" and base.steps > _ONE_STEP:
            wished["steps"] = max(1, round(base.steps * factor))
            wished["sweeps"] = max(0, base.sweeps + sweeps)
        return replace(base, **wished) if wished else None

    def told(self) -> str:
        """In words, for a line below results."""
        parts = [] if self.follow is None else [f"follow {self.follow:g}"]
        parts += [] if self.variety == OWN else [f"variety {self.variety}"]
        return ", ".join([*parts, f"quality {self.quality}"])


def options_of(
    pipe: AnyToAnyPipeline, given: Sequence[str], targets: Sequence[str], wishes: Wishes
) -> dict[str, SamplingOptions]:
    """Settings of those targets for which something is wished; each is given all before it."""
    found = {}
    for i, target in enumerate(targets):
        own = preferred(pipe.options, pipe.modalities, [*given, *targets[:i]], target)
        options = wishes.options(own, pipe.modalities[target])
        if options is not None:
            found[target] = options
    return found


def seed_of(text: Any) -> int:
    """A seed that was typed. Raises UserError for what is no whole number."""
    try:
        seed = int(str(text).strip())
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**62:
        raise UserError("the seed is a whole number from 0 up, for instance 0: type one")
    return seed


def _plain(m: Modality) -> SamplingOptions:
    """Of a target of which the model says nothing."""
    if m.kind == "sequence":
        return SamplingOptions()
    return DRAWN if m.grid is not None else replace(DRAWN, scheme=ROAR())


def _scale(text: Any) -> float | None:
    """A guidance scale; nothing typed is no wish, and 0 is 0."""
    text = "" if text is None else str(text).strip()
    if not text:
        return None
    try:
        scale = float(text.replace(",", "."))
    except ValueError:
        scale = math.nan
    if not -20 <= scale <= 20:
        raise UserError(
            f"how closely to follow is a number from -20 to 20 such as 3, or left empty, not"
            f" {text[:20]!r}"
        )
    return scale
