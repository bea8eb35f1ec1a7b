"""Inputs of a pipeline call: lists of samples, files and arrays, as what sampling knows of them.

One value stands for all samples, a list holds one for each. What the model reads itself (pictures
as ``pixels``) goes there; a value of which only parts are given goes through its codec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fourm.codecs import CodecSet
from fourm.data.opening import to_vectors
from fourm.errors import UserError
from fourm.modalities import SENTINEL_ID, Modality, ModalitySet
from fourm.pipeline.given import (
    Partial,
    Tokens,
    at_least_one,
    ids_of,
    is_batch,
    opened,
    padded_vectors,
    token_mask,
)
from fourm.pipeline.given_sequences import ids_with_gaps
from fourm.pipeline.output_types import without_tensors
from fourm.sampling.answers import is_sentinel
from fourm.sampling.state import GridState, SampleState


@dataclass(frozen=True)
class Inputs:
    """Values of B samples by modality: their numbers agree, what they are is not looked at."""

    num_samples: int
    values: dict[str, list[Any]]  # one a sample

    @classmethod
    def of(cls, inputs: Any, num_samples: Any, modalities: ModalitySet) -> Inputs:
        """From what a user gives. Lists are repeated where ``num_samples``, the number of all
        samples, is a multiple of their length. Raises UserError for lists that do not go together.
        """
        if not isinstance(inputs, Mapping):
            raise UserError(
                f"inputs are a mapping of names to values, not {type(inputs).__name__};"
                f" names are {', '.join(m.name for m in modalities.inputs)}"
            )
        num_samples = at_least_one(num_samples, "num_samples")
        inputs = {name: without_tensors(v, modalities[name]) for name, v in inputs.items()}
        lists = {
            name: list(value) for name, value in inputs.items() if is_batch(value, modalities[name])
        }
        size = 1
        for name, values in lists.items():
            size = len(values)
            if not size:
                raise UserError(f"input {name} is an empty list")
            if num_samples != 1 and num_samples % size:
                raise UserError(
                    f"input {name} is a list of {size}, num_samples is {num_samples}: it counts all"
                    f" samples, e.g. {2 * size} for two of each input"
                )
        if len({len(values) for values in lists.values()}) > 1:
            raise UserError(
                "inputs have different numbers of samples: "
                + ", ".join(f"{n} {len(values)}" for n, values in lists.items())
            )
        num = max(num_samples, size)
        return cls(
            num,
            {
                # those of one input stand together
                name: [v for v in lists[name] for _ in range(num // size)]
                if name in lists
                else [value] * num
                for name, value in inputs.items()
            },
        )


@dataclass(frozen=True)
class InputEncoder:
    """Values as ids and vectors, with a model's modalities and codecs."""

    modalities: ModalitySet
    codecs: CodecSet
    num_sentinels: Mapping[str, int]

    def state(self, inputs: Inputs) -> SampleState:
        """What is known of the samples. Raises UserError that names the input."""
        state = SampleState(inputs.num_samples)
        for name, values in inputs.values.items():
            try:
                self._add(state, self.modalities[name], values)
            except ValueError as error:
                raise UserError(f"input {name}: {error}") from None
        return state

    def with_whole(self, state: SampleState, inputs: Inputs, name: str) -> SampleState:
        """The state in which a target that is given whole is known in its own tokens, also where
        the model reads it without them.
        """
        m, values = self.modalities[name], inputs.values.get(name)
        if values is None or m.kind == "sequence" or reads_itself(m, self.modalities) is None:
            return state
        coded = np.array([not is_part(value) for value in values])
        if not coded.any():
            return state
        ids, keep = self.ids(m, [v for v, c in zip(values, coded, strict=True) if c])
        grid = _spread(GridState(np.stack(ids), np.stack(keep)), coded)
        partly = state.grids.get(name)
        if partly is not None:
            grid.values[~coded], grid.known[~coded] = partly.values[~coded], partly.known[~coded]
        return SampleState(state.num_samples, {**state.grids, name: grid}, state.sequences)

    def num_whole(self, state: SampleState, name: str) -> int:
        """In how many samples nothing of a target is left to generate."""
        if name in state.grids:
            return int(state.grids[name].known.all(1).sum())
        given = [ids for ids in state.sequences.get(name, []) if len(ids)]
        return len(given) - self.num_gapped(name, given)

    def num_gapped(self, name: str, ids: list[np.ndarray]) -> int:
        """How many of these ids of a modality have gaps."""
        if self.modalities[name].kind != "sequence":
            return 0
        return sum(bool(mark.any()) for mark in self._gaps(name, ids))

    def given_in_part(self, state: SampleState, name: str) -> np.ndarray:
        """Samples (B,) whose sequence of this modality has gaps beside ids that are given."""
        if name not in state.sequences:
            return np.zeros(state.num_samples, dtype=bool)
        marks = self._gaps(name, state.sequences[name])
        return np.array([bool(mark.any() and not mark.all()) for mark in marks])

    def _gaps(self, name: str, ids: list[np.ndarray]) -> list[np.ndarray]:
        """Masks (L,) of the ids of each sequence that mark gaps."""
        last = SENTINEL_ID + self.num_sentinels[name] - 1
        return [is_sentinel(i, last) for i in ids]

    def ids(self, m: Modality, values: list[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Ids of each value of a modality with a codec, and which of them are given."""
        ids = [self._ids(m, value) for value in values]
        for found in ids:
            if len(found) and (found.min() < 0 or found.max() >= m.vocab_size):
                strange = found.max() if found.max() >= m.vocab_size else found.min()
                raise UserError(f"id {strange} is outside the vocabulary of {m.vocab_size}")
            if m.kind != "sequence" and len(found) != m.num_tokens:
                raise UserError(f"{m.name} has {m.num_tokens} tokens, given are {len(found)}")
        return ids, [token_mask(v, m, len(i)) for v, i in zip(values, ids, strict=True)]

    def _ids(self, m: Modality, value: Any) -> np.ndarray:
        if m.kind == "sequence":
            return ids_with_gaps(
                value, m, lambda v: self.codecs[m.name].encode([v])[0], self.num_sentinels[m.name]
            )
        if isinstance(value, Tokens):
            return ids_of(value.ids)
        raw = value.raw if isinstance(value, Partial) else value
        return self.codecs[m.name].encode([m.raw.accept(opened(raw, m))])[0]

    def _add(self, state: SampleState, m: Modality, values: list[Any]) -> None:
        direct = reads_itself(m, self.modalities)
        plain = np.array([not is_part(value) for value in values])
        if direct is not None and m.kind == "continuous":
            plain[:] = True
        if m.kind == "sequence":
            state.sequences[m.name], _ = self.ids(m, values)
            return
        if direct is not None and plain.any():
            some = [values[i] for i in np.flatnonzero(plain)]
            given = [direct.raw.accept(opened(value, direct)) for value in some]
            state.grids[direct.name] = _spread(_vectors(given, direct), plain)
            if plain.all():
                return
        coded = np.ones(len(values), bool) if direct is None else ~plain
        ids, keep = self.ids(m, [v for v, c in zip(values, coded, strict=True) if c])
        state.grids[m.name] = _spread(GridState(np.stack(ids), np.stack(keep)), coded)


def is_part(value: Any) -> bool:
    """True for what goes through a codec whatever else the model reads."""
    return isinstance(value, (Partial, Tokens))


def reads_itself(m: Modality, modalities: ModalitySet) -> Modality | None:
    """The modality in which the model reads the raw form of ``m`` without a codec, if it has one:
    without loss.
    """
    return next(
        (c for c in modalities if c.kind == "continuous" and c.raw_name == m.raw_name), None
    )


def _vectors(given: list[np.ndarray], m: Modality) -> GridState:
    if not m.patch_size:
        return padded_vectors(given, m.num_tokens)
    vectors = to_vectors(np.stack(given), m)
    return GridState(vectors, np.ones(vectors.shape[:2], bool))


def _spread(part: GridState, where: np.ndarray) -> GridState:
    """A state of some samples as one of all (B,); of the others nothing is known."""
    if where.all():
        return part
    values = np.zeros((len(where), *part.values.shape[1:]), part.values.dtype)
    known = np.zeros((len(where), part.known.shape[1]), bool)
    values[where], known[where] = part.values, part.known
    return GridState(values, known)
