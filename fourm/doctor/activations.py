"""What a forward pass keeps for its backward pass, by arithmetic: a plain encoder, packed rows.

A norm keeps its input and what it gave; a product its input, in the precision it computes in;
attention its queries, keys, values and what it gave; a gated MLP its halves, the activated one and
their product. Under autocast the rows themselves stay float32. What is written for the length of
one operation is not counted: leave a tenth of the memory for that (``plan.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

from fourm.batches.batch import MaskedBatch
from fourm.modalities import ModalitySet
from fourm.model.loss import CHUNK_LOGITS
from fourm.model.model import ModelConfig
from fourm.training.loop_config import LoopConfig

FLOAT = 4  # bytes of what weights, gradients and moments are kept in, whatever the precision


@dataclass(frozen=True)
class Rows:
    """Rows of some samples, as numbers alone; of a mean sample they are fractions."""

    inputs: float
    targets: float
    counts: tuple[float, ...]  # targets of each modality (M,)
    vectors: float  # numbers in the vectors of continuous inputs

    @staticmethod
    def of(batch: MaskedBatch) -> Rows:
        """Those of a masked batch."""
        return Rows(
            float(batch.encoder.lengths.sum()),
            float(batch.decoder.lengths.sum()),
            tuple(map(float, batch.decoder.counts)),
            float(sum(given.values.numel() for given in batch.encoder.vectors.values())),
        )

    def times(self, factor: float) -> Rows:
        """Those of so many times the samples."""
        counts = tuple(factor * count for count in self.counts)
        return Rows(factor * self.inputs, factor * self.targets, counts, factor * self.vectors)


def number_bytes(loop: LoopConfig) -> int:
    """Bytes of a number that products compute with."""
    return 2 if loop.precision == "bf16" else FLOAT


def activation_bytes(c: ModelConfig, loop: LoopConfig, rows: Rows) -> int:
    """Of one micro-batch, logits left out; with checkpointing the rows before each block, and one
    block made again.
    """
    number = number_bytes(loop)
    norm = (FLOAT + number) * c.dim  # its input, and what it gave
    mlp = (4 if c.gated_mlp else 2) * c.block.hidden * number
    attention = (4 + (4 if c.qk_norm else 0)) * c.dim * number
    encoder = rows.inputs * (2 * norm + attention + mlp)
    # causal and other blocks are attended to apart: what both gave is put together once more
    cross_rows = rows.targets * (norm + 2 * c.dim * number) + rows.inputs * 3 * c.dim * number
    decoder = rows.targets * (2 * norm + attention + c.dim * number + mlp) + cross_rows
    kept = c.encoder_depth * encoder + c.decoder_depth * decoder
    if loop.activation_checkpointing:
        before = c.encoder_depth * rows.inputs + c.decoder_depth * rows.targets
        kept = before * c.dim * FLOAT + max(encoder, decoder)
    ends = (rows.inputs + rows.targets) * norm + rows.inputs * c.dim * FLOAT
    return int(kept + ends + rows.vectors * number)


def logit_bytes(c: ModelConfig, loop: LoopConfig, modalities: ModalitySet, rows: Rows) -> int:
    """What the heads keep (``fourm.model.loss``): log-probabilities of few targets; of many the
    gradients of rows and weights.
    """
    kept = 0.0
    for m, count in zip(modalities, rows.counts, strict=True):
        few = count * m.vocab_size * FLOAT
        many = (count * number_bytes(loop) + m.vocab_size * FLOAT) * c.dim
        kept += few if count * m.vocab_size <= CHUNK_LOGITS else many
    return int(kept)


def chunk_bytes(loop: LoopConfig, modalities: ModalitySet, rows: Rows) -> int:
    """The most logits that are at hand at once, as products and as their logarithms."""
    counted = zip(modalities, rows.counts, strict=True)
    most = max((count * m.vocab_size for m, count in counted), default=0.0)
    return int(min(most, CHUNK_LOGITS) * (FLOAT + number_bytes(loop)))
