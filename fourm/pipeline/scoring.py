"""How likely the model finds values of a target, given others: ``pipe.score``.

Sequences are exact: log p of each id given those before it, by teacher forcing in one pass. Of
grids and sets, whose tokens have no order, the answer depends on what each token is given:

* ``chain``: tokens in a number of parts, each part given those before it. Its sum is a proper
  log-likelihood where each part is one token; tokens of one part are taken as independent.
* ``pseudo``: each part given all others (Besag's pseudo-likelihood, 1975).

Shapes: B samples, T rows that are asked, V ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch

from fourm.batches.batch import MASK_QUERY, DecoderStream, EncoderStream, StreamRows, map_tensors
from fourm.errors import UserError
from fourm.modalities import FIRST_SENTINEL, Modality
from fourm.model.distinct import encode_distinct
from fourm.model.model import FourM
from fourm.numbers.low_discrepancy import halton_ranks
from fourm.sampling.state import GridState, SampleState, encoder_stream

StreamT = TypeVar("StreamT", EncoderStream, DecoderStream)
Method = Literal["chain", "pseudo"]
_LOGITS = 1 << 24  # held at once


@dataclass(frozen=True)
class Scorer:
    """Scores of whole targets; ``parts`` and ``method`` are for grids and sets."""

    model: FourM
    parts: int = 1
    method: Method = "chain"

    def __post_init__(self) -> None:
        if self.method not in ("chain", "pseudo"):
            raise UserError(f"method {self.method!r} is not one of chain, pseudo")
        least = 2 if self.method == "pseudo" else 1
        if self.parts < least:
            raise UserError(f"parts of {self.method} must be at least {least}, not {self.parts}")

    @torch.inference_mode()
    def score(self, state: SampleState, m: Modality, ids: list[np.ndarray]) -> np.ndarray:
        """Log-likelihood (B,) in nats of the ids of each sample."""
        if m.kind == "sequence":
            sample = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
            position = np.concatenate([np.arange(len(i)) for i in ids])
            before = [np.array([FIRST_SENTINEL, *i[:-1]], np.int64) for i in ids]
            return self._asked(state, m, sample, position, np.concatenate(before), ids)
        table, total = np.stack(ids), np.zeros(len(ids))
        part_of = order_of(m) * self.parts // m.num_tokens
        for part in range(self.parts):
            known = part_of < part if self.method == "chain" else part_of != part
            grid = GridState(table, np.tile(known, (len(ids), 1)))
            seen = SampleState(len(ids), {**state.grids, m.name: grid}, state.sequences)
            sample, position = np.nonzero(np.tile(part_of == part, (len(ids), 1)))
            query = np.full(len(sample), MASK_QUERY)
            total += self._asked(seen, m, sample, position, query, ids)
        return total

    def _asked(
        self,
        state: SampleState,
        m: Modality,
        sample: np.ndarray,
        position: np.ndarray,
        query: np.ndarray,
        ids: list[np.ndarray],
    ) -> np.ndarray:
        """Sum (B,) of log p of the ids at positions (T,) of samples (T,), asked in one pass."""
        model, modalities = self.model, self.model.modalities
        rows = StreamRows(state.num_samples)
        rows.add(modalities.index(m.name), sample, position, query, 0 * query)
        causal = np.array([other.kind == "sequence" for other in modalities])
        stream = encoder_stream([state], modalities)
        encoded = encode_distinct(model, stream, self._on_device)
        hidden = model.decode(encoded, self._on_device(rows.decoder(causal)))
        target = np.array([ids[i][at] for i, at in zip(sample, position, strict=True)], np.int64)
        found = []
        chunk = max(1, _LOGITS // m.vocab_size)
        for some, wanted in zip(
            hidden.split(chunk), torch.from_numpy(target).split(chunk), strict=True
        ):
            log_p = model.logits(some, m.name).float().log_softmax(-1)
            found.append(log_p.gather(1, wanted.to(log_p.device)[:, None])[:, 0].double().cpu())
        return np.bincount(sample, torch.cat(found).numpy(), state.num_samples)

    def _on_device(self, stream: StreamT) -> StreamT:
        return map_tensors(stream, lambda t: t.to(self.model.device))


def order_of(m: Modality) -> np.ndarray:
    """Rank (n,) of each token: grids by Halton's sequence, so that each part is spread over them;
    sets in the order of their ids.
    """
    return np.arange(m.num_tokens) if m.grid is None else halton_ranks(*m.grid).reshape(-1)
