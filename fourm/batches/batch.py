"""A batch is two packed token streams: what the encoder sees and what the decoder predicts.

Rows of all samples lie one after another, by sample and then by modality. Nothing is padded and
nothing that masking left out is there. Shape letters: B samples, N encoder rows of a sample, M
decoder rows of a sample, T rows of all samples, D width.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fourm.batches.layout import Layout

if TYPE_CHECKING:
    from fourm.model.encoder import EncoderRows
    from fourm.model.prepared import DecoderRows, Preparation

MASK_QUERY = -1  # decoder input of a position that is predicted in parallel


@dataclass(frozen=True)
class Vectors:
    """Rows of a continuous modality: which encoder rows they are and their vectors."""

    rows: Tensor  # (n,) int64
    values: Tensor  # (n, C) floats, or bytes as pictures are stored
    scale: Tensor | None = None  # (3, C) of bytes: divisor, mean and standard deviation

    def floats(self) -> Tensor:
        """The vectors about unit scale (n, C): bytes become floats where the model is."""
        if self.scale is None:
            return self.values
        divisor, mean, std = self.scale
        return (self.values.to(mean.dtype) / divisor - mean) / std


@dataclass(frozen=True)
class EncoderStream:
    """What the encoder sees: T rows of B samples, one after another, without padding."""

    modality: Tensor  # (T,) int64 index into the modality set
    position: Tensor  # (T,) int64 within the modality
    token: Tensor  # (T,) int64 id within the modality's vocabulary; 0 for continuous rows
    lengths: np.ndarray  # (B,) rows of each sample
    kinds: np.ndarray  # (T,) ``modality`` on the host
    places: np.ndarray  # (T,) ``position`` on the host
    vectors: dict[str, Vectors] = field(default_factory=dict)
    # what layers need, and for which network (``fourm.model.prepared``); None = made on the spot
    prepared: tuple[Preparation, EncoderRows] | None = None

    @property
    def layout(self) -> Layout:
        """Who attends to whom: all rows of a sample to each other."""
        return Layout.per_sample(self.lengths)


@dataclass(frozen=True)
class DecoderStream:
    """What the decoder is asked: T rows of B samples, sorted by sample and modality."""

    modality: Tensor  # (T,) int64
    position: Tensor  # (T,) int64
    input: Tensor  # (T,) int64 previous id of a sequence, or MASK_QUERY
    target: Tensor  # (T,) int64 id to predict
    lengths: np.ndarray  # (B,) rows of each sample
    segment_lengths: np.ndarray  # (S,) rows of each (sample, modality) that has any
    segment_sample: np.ndarray  # (S,)
    segment_causal: np.ndarray  # (S,) bool
    by_modality: Tensor  # (T,) row numbers sorted by modality, then by row
    counts: tuple[int, ...]  # rows of each modality of the set
    prepared: tuple[Preparation, DecoderRows] | None = None

    @property
    def layout(self) -> Layout:
        """Who attends to whom: rows of one sample and modality, in sequences to earlier ones."""
        num = len(self.lengths)
        return Layout.segments(
            self.segment_lengths,
            self.segment_sample,
            num,
            self.segment_causal,
            max_blocks=num * len(self.counts),
        )


@dataclass(frozen=True)
class MaskedBatch:
    """Inputs and targets of B masked samples."""

    encoder: EncoderStream
    decoder: DecoderStream
    samples: np.ndarray  # (B,) number of each sample in its data set
    # modalities that samples go without because their files are damaged
    num_unreadable: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of the samples in both streams, without any that fill a budget."""
        num = len(self.samples)
        return int(self.encoder.lengths[:num].sum() + self.decoder.lengths[:num].sum())

    def to(self, device: torch.device | str) -> MaskedBatch:
        """The batch on a device."""
        return map_tensors(self, lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> MaskedBatch:
        """The batch in page-locked memory."""
        return map_tensors(self, lambda t: t.pin_memory())


def map_tensors(value: Any, change: Any) -> Any:
    """The same dataclass, mapping or tuple with ``change`` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_tensors(item, change) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(
            **{
                f.name: map_tensors(getattr(value, f.name), change)
                for f in dataclasses.fields(value)
            }
        )
    return value


@dataclass
class StreamRows:
    """Rows gathered modality by modality, in any order of samples; ``encoder`` and ``decoder`` pack
    them.
    """

    num_samples: int
    sample: list[np.ndarray] = field(default_factory=list)
    modality: list[np.ndarray] = field(default_factory=list)
    position: list[np.ndarray] = field(default_factory=list)
    token: list[np.ndarray] = field(default_factory=list)
    target: list[np.ndarray] = field(default_factory=list)
    # name -> number of its part, (n, C)
    vectors: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)

    def add(
        self,
        modality: int,
        sample: np.ndarray,
        position: np.ndarray,
        token: np.ndarray,
        target: np.ndarray | None = None,
    ) -> None:
        """Rows of one modality: sample, position, id (or decoder input) and target, each (n,),
        ascending by sample.
        """
        self.sample.append(np.asarray(sample, dtype=np.int64))
        self.modality.append(np.full(len(sample), modality, dtype=np.int64))
        self.position.append(np.asarray(position, dtype=np.int64))
        self.token.append(np.asarray(token, dtype=np.int64))
        self.target.append(np.asarray(token if target is None else target, dtype=np.int64))

    def add_vectors(
        self, name: str, modality: int, sample: np.ndarray, position: np.ndarray, values: np.ndarray
    ) -> None:
        """Rows of a continuous modality with their vectors (n, C)."""
        self.vectors[name] = (len(self.sample), values)
        self.add(modality, sample, position, np.zeros(len(sample), dtype=np.int64))

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        sample = np.concatenate(self.sample) if self.sample else np.zeros(0, dtype=np.int64)
        return np.argsort(sample, kind="stable"), sample

    def encoder(self) -> EncoderStream:
        """The rows as an encoder's stream, sorted by sample."""
        order, sample = self._sorted()
        vectors = {}
        if self.vectors:
            place = np.empty(len(order), dtype=np.int64)
            place[order] = np.arange(len(order))
            starts = np.cumsum([0, *(len(part) for part in self.sample)])
            for name, (part, values) in self.vectors.items():
                rows = place[starts[part] : starts[part + 1]]
                vectors[name] = Vectors(
                    torch.from_numpy(rows), torch.from_numpy(np.ascontiguousarray(values))
                )
        modality, position = _packed(self.modality, order), _packed(self.position, order)
        return EncoderStream(
            modality,
            position,
            _packed(self.token, order),
            np.bincount(sample, minlength=self.num_samples),
            # copies: a loader's worker moves tensors into shared memory and frees what was theirs
            modality.numpy().copy(),
            position.numpy().copy(),
            vectors,
        )

    def decoder(self, causal: np.ndarray) -> DecoderStream:
        """``causal`` (modalities of the set,) says which ones are sequences."""
        order, sample = self._sorted()
        modality = _packed(self.modality, order)
        sample, kinds = sample[order], modality.numpy()
        segment = sample * len(causal) + kinds
        first = np.flatnonzero(np.diff(segment, prepend=-1))
        return DecoderStream(
            modality,
            _packed(self.position, order),
            _packed(self.token, order),
            _packed(self.target, order),
            np.bincount(sample, minlength=self.num_samples),
            np.diff(first, append=len(sample)),
            sample[first],
            causal[kinds[first]],
            torch.from_numpy(np.argsort(kinds, kind="stable")),
            tuple(np.bincount(kinds, minlength=len(causal)).tolist()),
        )


def _packed(parts: list[np.ndarray], order: np.ndarray) -> Tensor:
    return torch.from_numpy(
        (np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64))[order]
    )
