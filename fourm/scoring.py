"""How likely the model finds values of a target, given others: ``pipe.score``.

Sequences are exact: log p of each id given those before it, by teacher forcing in one pass. Of grids
and sets, whose tokens have no order, the answer depends on what each token is given:

* ``chain``: tokens in a number of parts, each part given those before it. Its sum is a proper
  log-likelihood where each part is one token; tokens of one part are taken as independent.
* ``pseudo``: each part given all others (Besag's pseudo-likelihood, 1975).

Shapes: B samples, T rows that are asked, V ids.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from fourm.batch import MASK_QUERY, DecoderStream, EncoderStream, StreamRows, map_tensors
from fourm.distinct import encode_distinct
from fourm.errors import UserError
from fourm.low_discrepancy import halton_order
from fourm.modalities import FIRST_SENTINEL, Modality
from fourm.model import FourM
from fourm.sampling.state import GridState, SampleState, encoder_stream

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
            return self._sequences(state, m, ids)
        return self._grids(state, m, np.stack(ids))
