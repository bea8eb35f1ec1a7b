"""Features of a model's encoder: rows of any layers with where each comes from, pooled or as maps.

Layers are numbered as Python numbers lists, -1 the last; each goes through the encoder's last norm
and several lie side by side in a row (as DINOv2's linear evaluation has them). Other layers than
the last are read by hooks, so that the model knows nothing of it. Shapes: R rows of B samples, D
numbers a row (width x layers), h x w a modality's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from fourm.batches.batch import EncoderStream, map_tensors
from fourm.errors import UserError, nearest
from fourm.modalities import ModalitySet
from fourm.model.encoder import Encoded
from fourm.model.model import FourM
from fourm.numbers.ragged import starts
from fourm.sampling.state import SampleState, encoder_stream

NO_ONE = -1  # modality of a row that is of no single one, position of a row that has none


@dataclass(frozen=True)
class FeatureRows:
    """Rows of B samples, one sample after another, by modality within a sample."""

    modalities: ModalitySet
    vectors: Tensor  # (R, D); of ``feature_rows`` float32 on the CPU
    lengths: np.ndarray  # (B,) rows of each sample
    modality: np.ndarray  # (R,) number in the set; NO_ONE for registers, latents and means of all
    position: np.ndarray  # (R,) token of the modality; NO_ONE for means

    @property
    def sample(self) -> np.ndarray:
        """(R,) whose each row is."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def split(self) -> list[Tensor]:
        """Rows of each sample (n_i, D)."""
        return list(self.vectors.split(self.lengths.tolist()))

    def of(self, name: str) -> Tensor:
        """Rows of one modality, all samples' (n, D)."""
        return self.vectors[torch.from_numpy(self.modality == self.modalities.index(name))]

    def maps(self, name: str) -> Tensor:
        """A dense modality's rows by place (B, D, h, w); zero where a token was not given.

        Raises UserError for a modality without a grid, or of which there are no tokens here.
        """
        grid = self.modalities[name].grid
        mine = (self.modality == self.modalities.index(name)) & (self.position != NO_ONE)
        if grid is None or not mine.any():
            why = "has no grid" if grid is None else "has no rows here: give it, with pool none"
            raise UserError(f"no feature maps of {name}: it {why}")
        dense = self.vectors.new_zeros(len(self.lengths), grid[0] * grid[1], self.vectors.shape[1])
        dense[self.sample[mine], self.position[mine]] = self.vectors[torch.from_numpy(mine)]
        return rearrange(dense, "b (h w) d -> b d h w", h=grid[0])

    def mean(self) -> FeatureRows:
        """The mean of each sample's tokens (or latents) as its only row; zero if it has none."""
        num = len(self.lengths)
        own = self.modality != NO_ONE
        own = own if own.any() else np.ones_like(own)  # latents alone
        means = _means(self.vectors, np.where(own, self.sample, num), num)
        nothing = np.full(num, NO_ONE)
        return FeatureRows(self.modalities, means, np.ones(num, int), nothing, nothing)

    def mean_by_modality(self) -> FeatureRows:
        """A row for each modality that a sample has: the mean of its tokens."""
        each, num = len(self.modalities), len(self.lengths)
        group = np.where(self.modality != NO_ONE, self.sample * each + self.modality, num * each)
        there = np.unique(group[self.modality != NO_ONE])
        means = _means(self.vectors, group, num * each)[torch.from_numpy(there)]
        lengths = np.bincount(there // each, minlength=num)
        return FeatureRows(
            self.modalities, means, lengths, there % each, np.full(len(there), NO_ONE)
        )


POOLS: dict[str, Callable[[FeatureRows], FeatureRows]] = {
    "mean": FeatureRows.mean,
    "modality": FeatureRows.mean_by_modality,
    "none": lambda rows: rows,
}


@torch.no_grad()  # unlike inference mode it lets heads be trained on what comes out
def feature_rows(
    model: FourM, state: SampleState, layers: Sequence[int] = (-1,), pool: str = "mean"
) -> FeatureRows:
    """The encoder's rows for what is known of samples. Raises UserError for an unknown layer or
    pool.
    """
    numbers = check_choice(model, layers, pool)
    stream = map_tensors(encoder_stream([state], model.modalities), lambda t: t.to(model.device))
    rows = stream_rows(model, stream, numbers)
    return POOLS[pool](replace(rows, vectors=rows.vectors.float().cpu()))


def stream_rows(model: FourM, stream: EncoderStream, numbers: Sequence[int]) -> FeatureRows:
    """The encoder's rows of a stream, where the model is; gradients flow. ``numbers`` of layers are
    counted from the first one.
    """
    last = len(model.encoder_blocks) - 1
    with _outputs(model, [number for number in numbers if number != last]) as outputs:
        encoded = model.encode(stream)
    found = {number: model.encoder_norm(rows) for number, rows in outputs.items()}
    found[last] = encoded.features
    vectors = torch.cat([found[number] for number in numbers], -1)
    return _placed(model, vectors, encoded, stream.kinds, stream.places)


def _placed(
    model: FourM, vectors: Tensor, encoded: Encoded, kinds: np.ndarray, places: np.ndarray
) -> FeatureRows:
    """Vectors with their places. Each sample's registers lie before its tokens."""
    lengths = encoded.num_features
    modality, position = (np.full(len(vectors), NO_ONE) for _ in range(2))
    if model.latents is None:
        num = model.config.num_registers
        sample = np.repeat(np.arange(len(lengths)), lengths - num)
        rows = np.arange(len(kinds)) + num * (sample + 1)
        modality[rows], position[rows] = kinds, places
    else:
        position = np.arange(len(vectors)) - np.repeat(starts(lengths), lengths)
    return FeatureRows(model.modalities, vectors, np.asarray(lengths), modality, position)


def check_choice(model: FourM, layers: Sequence[int], pool: str) -> list[int]:
    """Layers counted from the first one. Raises UserError for an unknown layer or pool."""
    if pool not in POOLS:
        raise UserError(f"pool {pool!r}: it is one of {', '.join(POOLS)}{nearest(pool, POOLS)}")
    num = len(model.encoder_blocks)
    for layer in layers:
        if not -num <= layer < num:
            raise UserError(f"no layer {layer}: the encoder has {num}, from 0 or from {-num}")
    numbers = [layer % num for layer in layers]
    if not numbers:
        raise UserError("no layers: name at least one, -1 is the last")
    if model.latents is not None and set(numbers) != {num - 1}:
        raise UserError("a latent encoder has features of its last layer alone: layers -1")
    return numbers


@contextmanager
def _outputs(model: FourM, numbers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """What layers give while the encoder runs (T, D), by number."""
    found: dict[int, Tensor] = {}

    def note(number: int) -> Callable[..., None]:
        def hook(block: object, given: object, rows: Tensor) -> None:
            found[number] = rows

        return hook

    blocks = model.encoder_blocks
    hooks = [blocks[number].register_forward_hook(note(number)) for number in set(numbers)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _means(vectors: Tensor, group: np.ndarray, num: int) -> Tensor:
    """Means of rows by group (num, D); rows of group ``num`` are left out."""
    at = torch.from_numpy(group).to(vectors.device)
    sums = vectors.new_zeros(num + 1, vectors.shape[1]).index_add_(0, at, vectors)
    counts = torch.bincount(at, minlength=num + 1).clamp_min(1)
    return (sums / counts[:, None])[:num]
