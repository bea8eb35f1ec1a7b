"""What a visitor asks for, and the steps of it being made."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fourm.app.limits import LIMITS, Limits
from fourm.app.results import Made
from fourm.app.wishes import Wishes, options_of
from fourm.errors import UserError
from fourm.pipeline.given import Partial, whole_number
from fourm.pipeline.pipeline import AnyToAnyPipeline


@dataclass(frozen=True)
class Request:
    """A generation that was asked for."""

    given: Mapping[str, Any]
    targets: Sequence[str]
    num_samples: int
    seed: int
    wishes: Wishes
    unwanted: Mapping[str, Any] = field(default_factory=dict)  # what guidance leads away from

    def check(self, pipe: AnyToAnyPipeline, limits: Limits = LIMITS) -> None:
        """Raise UserError for what cannot be asked for here."""
        num = whole_number(self.num_samples, "how many")
        if not 1 <= num <= limits.samples:
            raise UserError(f"how many is a number from 1 to {limits.samples}, not {num}")
        if not self.targets:
            raise UserError("nothing is to be made: choose at least one under Make")
        if len(self.targets) > len(pipe.modalities.outputs):
            raise UserError("more is to be made than the model knows")
        for name, value in self.given.items():
            if name in self.targets and not is_open(value):
                raise UserError(
                    f"{name} is given whole and to be made: untick it, or leave a part of it open"
                )
        for name in self.unwanted:
            if name in self.targets:
                raise UserError(
                    f"what is not wanted is said by {name}, which is to be made: empty the box, or"
                    f" untick {name} under Make"
                )

    def remarks(self) -> Iterator[str]:
        """What is given in part and stays so."""
        for name, value in self.given.items():
            if name not in self.targets and is_open(value):
                yield f"A part of {name} is left open; choose it under Make to have it filled."

    def told(self) -> str:
        """How it was asked for, in words, for a line below results."""
        return ", ".join(
            [*(f"not {value}" for value in self.unwanted.values()), self.wishes.told()]
        )


def is_open(value: Any) -> bool:
    """True for an input of which a part is left open."""
    if isinstance(value, Partial):
        return True
    parts = value if isinstance(value, list) else [value]
    return any(isinstance(part, str) and "[S_" in part for part in parts)


def watched(pipe: AnyToAnyPipeline, asked: Request, number: int) -> Iterator[Made]:
    """What is made, after each step; the last one is finished."""
    own = options_of(pipe, list(asked.given), asked.targets, asked.wishes)
    settings = {"seed": asked.seed, "settings": asked.told(), "names": tuple(asked.targets)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = pipe.stream(
            asked.given,
            list(asked.targets),
            seed=asked.seed,
            num_samples=asked.num_samples,
            options=own,
            negative=asked.unwanted or None,
        )
        for step in stream:
            yield Made(number, asked.given, dict(stream.results), **settings, step=step)
    yield Made(number, asked.given, stream.results, **settings)
