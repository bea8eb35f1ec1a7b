"""Which tokens of a sample are inputs and which are targets.

Semantics of 4M (2312.06647): a mixture component is drawn, Dirichlet draws share out the number of
input and of target tokens among modalities, grids take random positions, sequences hide spans
behind sentinels. Two differences, both options: what a modality cannot use of its share goes to
those that still have tokens (``redistribute``; the reference pads instead), and input and target of
one image never overlap. Everything is a pure function of (seed, draw number): no generator, no
order of calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from fourm.batch import MASK_QUERY, DecoderStream, EncoderStream, MaskedBatch, Vectors
from fourm.config import at_least, check_fields
from fourm.errors import UserError
from fourm.mask_rules import NEVER, KeepRule, Rows, Rules
from fourm.modalities import Modality, ModalitySet
from fourm.ragged import rows_of_blocks
from fourm.ragged import starts as starts_of
from fourm.rng import CounterRNG
from fourm.tokens import Ragged, SampleTokens, UnreadableElements

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

    def check(self, modalities: ModalitySet) -> None:
        """Raise UserError where a component names an unknown modality or one that cannot have that
        role, or can never give a target.
        """
        for number, component in enumerate(self.components, 1):
            for name in (*component.input, *component.target, *component.keep):
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


class Masker:
    """Draws masks for one modality set and one config."""

    def __init__(self, modalities: ModalitySet, config: MaskingConfig, seed: int) -> None:
        # the compiler is loaded where masks are drawn and nowhere else
        from fourm.mask_samples import mask_samples
        from fourm.read_rows import read_ids

        config.check(modalities)
        self.modalities, self.config = modalities, config
        self.causal = np.array([m.kind == "sequence" for m in modalities])
        self._root = CounterRNG(seed, "masking").root
        self._rules = _rules(modalities, config)
        self._mask_samples, self._read_ids = mask_samples, read_ids

    def __call__(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        """Mask a batch; ``draws`` (B,) are the numbers that its randomness is a function of.

        A sample of which a file turns out to be damaged is masked as one that lacks the modality;
        the others are what they would have been.
        """
        try:
            return self._masked(tokens, draws)
        except _DamagedSamples as damaged:
            batch = self(tokens.without(damaged.modality, damaged.samples), draws)
            num = batch.num_unreadable + len(damaged.samples)
            return replace(batch, num_unreadable=num)

    def _masked(self, tokens: SampleTokens, draws: np.ndarray) -> MaskedBatch:
        shape = (len(tokens), len(self.modalities))
        lengths, starts = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, m in enumerate(self.modalities):
            held = tokens.content.get(m.name)
            if held is not None:
                lengths[:, i], starts[:, i] = held.lengths, held.starts
        encoder = _room(shape, self._rules.num_inputs)
        decoder = _room(shape, self._rules.num_targets)
        draws = np.ascontiguousarray(draws, np.int64)
        self._mask_samples(self._rules, self._root, draws, lengths, starts, encoder, decoder)
        return MaskedBatch(
            self._encoder(tokens, encoder), self._decoder(tokens, decoder), tokens.samples
        )

    def compile(self, tokens: SampleTokens) -> None:
        """Compile what two or more samples of these types need, so that processes forked later
        find it done.
        """
        self(tokens, np.zeros(len(tokens), np.int64))
        counts = np.zeros((len(tokens), len(self.modalities) + 1), np.int64)
        for m in self.modalities:
            if m.name in tokens.content and m.kind != "continuous":
                # columns of a table, as those of a batch: another layout is another type
                self._read(tokens.content[m.name], counts[:, 0], counts[:, 0], counts[0])

    def _encoder(self, tokens: SampleTokens, rows: Rows) -> EncoderStream:
        """The stream of the rows that were chosen as inputs."""
        first = starts_of(rows.counts.reshape(-1)).reshape(rows.counts.shape)
        num, vectors = int(rows.counts.sum()), {}
        for i, m in enumerate(self.modalities):
            held, counts = tokens.content.get(m.name), rows.counts[:, i]
            if held is None or not counts.any():
                continue
            if m.kind != "continuous":
                self._read(held, first[:, i], counts, rows.given)
                continue
            at = rows_of_blocks(first[:, i], counts)
            sample = np.repeat(np.arange(len(tokens)), counts)
            try:
                values = held.take(sample, rows.position[at])
            except UnreadableElements as unreadable:
                raise _DamagedSamples(m.name, np.unique(sample[unreadable.at])) from None
            rows.given[at] = 0
            scale = _scale(m) if values.dtype == np.uint8 else None
            values = values if scale is not None else values.astype(np.float32, copy=False)
            vectors[m.name] = Vectors(torch.from_numpy(at), torch.from_numpy(values), scale)
        modality, position = rows.modality[:num], rows.position[:num]
        return EncoderStream(
            torch.from_numpy(modality),
            torch.from_numpy(position),
            torch.from_numpy(rows.given[:num]),
            rows.counts.sum(1),
            # copies: a loader's worker moves tensors into shared memory and frees what was theirs
            modality.copy(),
            position.copy(),
            vectors,
        )

    def _decoder(self, tokens: SampleTokens, rows: Rows) -> DecoderStream:
        """The stream of the rows that were chosen as targets."""
        first = starts_of(rows.counts.reshape(-1)).reshape(rows.counts.shape)
        num = int(rows.counts.sum())
        for i, m in enumerate(self.modalities):
            held, counts = tokens.content.get(m.name), rows.counts[:, i]
            if held is not None and counts.any():
                self._read(held, first[:, i], counts, rows.target)
                if m.kind == "sequence":
                    self._read(held, first[:, i], counts, rows.given)
        segment = np.flatnonzero(rows.counts)
        sample, kind = np.divmod(segment, len(self.modalities))
        modality, position, given, target = (torch.from_numpy(a[:num]) for a in rows[1:])
        # of 16 bits, because those are sorted by counting
        by_modality = np.argsort(rows.modality[:num].astype(np.int16), kind="stable")
        return DecoderStream(
            modality,
            position,
            given,
            target,
            rows.counts.sum(1),
            rows.counts.reshape(-1)[segment],
            sample,
            self.causal[kind],
            torch.from_numpy(by_modality),
            tuple(rows.counts.sum(0).tolist()),
        )

    def _read(
        self, held: Ragged, first: np.ndarray, counts: np.ndarray, contents: np.ndarray
    ) -> None:
        """Ids in place of contents (T,), in ``counts`` (B,) rows of each sample from ``first``."""
        for i, part in enumerate(held.parts):
            self._read_ids(np.asarray(part), held.part == i, first, counts, contents)


class _DamagedSamples(Exception):
    """Samples (n,) of a batch whose files of a modality are damaged."""

    def __init__(self, modality: str, samples: np.ndarray) -> None:
        super().__init__(modality)
        self.modality, self.samples = modality, samples


def _room(shape: tuple[int, int], ranges: np.ndarray) -> Rows:
    """Room for the rows of B samples whose numbers are within ``ranges`` (K, 2)."""
    num = shape[0] * int(ranges[:, 1].max()) + 1
    modality, position, given, target = np.empty((4, num), np.int64)
    given[:] = MASK_QUERY  # where nothing else is written
    return Rows(np.zeros(shape, np.int64), modality, position, given, target)


def _scale(m: Modality) -> torch.Tensor | None:
    """What makes floats of patches that travel as bytes."""
    scale = m.raw.byte_scale
    if scale is None or not m.patch_size:
        return None
    return torch.from_numpy(np.tile(scale, m.patch_size**2))


def _rules(modalities: ModalitySet, config: MaskingConfig) -> Rules:
    """The config as arrays."""
    parts = config.components
    weights = np.array([c.weight for c in parts])
    inputs = [
        [_alpha(c.input, c.input_default, m.name, m.input) for m in modalities] for c in parts
    ]
    targets = [
        [_alpha(c.target, c.target_default, m.name, m.output) for m in modalities] for c in parts
    ]
    keep = [[KeepRule[c.keep.get(m.name, "random")] for m in modalities] for c in parts]
    return Rules(
        thresholds=np.cumsum(weights / weights.sum())[:-1],
        input_alpha=np.array(inputs),
        target_alpha=np.array(targets),
        num_inputs=np.array([c.num_inputs or config.num_inputs for c in parts]),
        num_targets=np.array([c.num_targets or config.num_targets for c in parts]),
        keep=np.array(keep, np.int64),
        is_sequence=np.array([m.kind == "sequence" for m in modalities]),
        chunk_size=np.array([m.chunk_size for m in modalities]),
        redistribute=config.redistribute,
    )


def _alpha(table: dict[str, float], default: float, name: str, allowed: bool) -> float:
    """A Dirichlet parameter; one that is never drawn where the modality cannot have the role."""
    return max(table.get(name, default), _NO_ALPHA) if allowed else _NO_ALPHA
