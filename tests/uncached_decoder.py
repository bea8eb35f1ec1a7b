"""Sequences decoded by running the whole prefix at each token: the slow reference of the cache."""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from fourm.batches.batch import DecoderStream
from fourm.model.encoder import Encoded
from fourm.model.model import FourM


class UncachedDecoder:
    """The same by running the whole prefix each time: the reference that the cache is tested
    against.
    """

    def __init__(self, model: FourM, encoded: Encoded, max_length: int) -> None:
        self.model, self.encoded = model, encoded
        self.prefix: list[Tensor] = []

    def step(self, modality: int, tokens: Tensor) -> Tensor:
        """Next token of each sample (R,) -> decoder output (R, D) at its place."""
        self.prefix.append(tokens)
        prefix = torch.stack(self.prefix, 1)  # (R, t)
        num, length = prefix.shape
        flat = prefix.reshape(-1)
        counts = [0] * len(self.model.modalities)
        counts[modality] = len(flat)
        stream = DecoderStream(
            torch.full_like(flat, modality),
            torch.arange(length, device=flat.device).repeat(num),
            flat,
            flat,
            np.full(num, length),
            np.full(num, length),
            np.arange(num),
            np.ones(num, bool),
            torch.arange(len(flat), device=flat.device),
            tuple(counts),
        )
        return rearrange(self.model.decode(self.encoded, stream), "(r t) d -> r t d", r=num)[:, -1]
