"""The rows of the matrix: what is given.

``nothing``; chosen sets (``rgb``, ``depth+caption``); ``all``, which is all others than the target.
No condition holds the target's own raw form: what is made of the same picture is no other modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fourm.errors import UserError, nearest
from fourm.evaluation.matrix.scores import NOTHING
from fourm.modalities import Modality, ModalitySet

ALL, EACH = "all", "each"


class Condition(Protocol):
    """One row."""

    @property
    def name(self) -> str:
        """What the row is called."""
        ...

    def given(self, target: Modality) -> tuple[str, ...] | None:
        """Modalities that are given for a target; None where there is no such cell."""
        ...


@dataclass(frozen=True)
class Chosen:
    """The same modalities for every target; none of them is the row ``nothing``."""

    members: tuple[Modality, ...]

    @property
    def name(self) -> str:
        return "+".join(m.name for m in self.members) or NOTHING

    def given(self, target: Modality) -> tuple[str, ...] | None:
        if any(m.raw_name == target.raw_name for m in self.members):
            return None
        return tuple(m.name for m in self.members)


@dataclass(frozen=True)
class Others:
    """All but the target. Of two modalities that are one raw form, as pixels and their tokens, the
    one that is read without loss stands for both, as in the pipeline.
    """

    inputs: tuple[Modality, ...]

    @property
    def name(self) -> str:
        return ALL

    def given(self, target: Modality) -> tuple[str, ...] | None:
        direct = {m.raw_name for m in self.inputs if m.kind == "continuous"}
        kept = [m for m in self.inputs if m.kind == "continuous" or m.raw_name not in direct]
        return tuple(m.name for m in kept if m.raw_name != target.raw_name) or None


def read_conditions(text: str, modalities: ModalitySet, present: list[str]) -> list[Condition]:
    """Rows from ``rgb;depth+caption;all``; ``each`` is every modality alone. Empty text is
    ``nothing;each;all``. Raises UserError for a name that is no input or not in the data.
    """
    inputs = tuple(m for m in modalities.inputs if m.name in present)
    rows: dict[str, Condition] = {}
    for word in (text or f"{NOTHING};{EACH};{ALL}").split(";"):
        found: list[Condition]
        if word.strip() == ALL:
            found = [Others(inputs)]
        elif word.strip() == EACH:
            found = [Chosen((m,)) for m in inputs]
        else:
            found = [_chosen(word, inputs)]
        rows |= {condition.name: condition for condition in found}
    return list(rows.values())


def _chosen(word: str, inputs: tuple[Modality, ...]) -> Chosen:
    known = {m.name: m for m in inputs}
    names = [name.strip() for name in word.split("+")]
    if names == [NOTHING]:
        return Chosen(())
    for name in names:
        if name not in known:
            raise UserError(
                f"condition {word.strip()!r}: {name!r} is no input of this model that the data"
                f" has; these are {', '.join(known)}, and {NOTHING}, {EACH} and {ALL}"
                f"{nearest(name, [*known, NOTHING, EACH, ALL])}"
            )
    return Chosen(tuple(known[name] for name in dict.fromkeys(names)))


def read_targets(text: str, modalities: ModalitySet, present: list[str]) -> list[str]:
    """Columns from ``rgb;depth``; empty text is all outputs that the data has. Raises UserError for
    others.
    """
    known = [m.name for m in modalities.outputs if m.name in present]
    names = [word.strip() for word in text.split(";")] if text else []
    for name in names:
        if name not in known:
            raise UserError(
                f"target {name!r} is no output of this model that the data has; these are"
                f" {', '.join(known)}{nearest(name, known)}"
            )
    return list(dict.fromkeys(names)) or known
