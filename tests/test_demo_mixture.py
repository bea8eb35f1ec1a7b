"""The demo's mixtures show what the demo is asked for: pictures with captions that lack a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fourm.batches.masking import Masker
from fourm.batches.tokens import Ragged, SampleTokens
from fourm.config import load
from fourm.modalities import FIRST_SENTINEL, ModalitySet
from fourm.training.pretrain import PretrainConfig

CONFIGS = Path(__file__).parent.parent / "configs"
NUM, LONGEST = 4096, 11  # draws; ids of a caption of two solids, its end included


def _scenes(modalities: ModalitySet) -> SampleTokens:
    """Scenes of which only the lengths matter."""
    content = {}
    for m in modalities:
        length = LONGEST if m.kind == "sequence" else m.num_tokens
        shape = (NUM * length, 3) if m.kind == "continuous" else (NUM * length,)
        part = np.full(shape, 300, np.float32 if m.kind == "continuous" else np.int64)
        lengths = np.full(NUM, length)
        content[m.name] = Ragged.of_one(part, np.arange(NUM) * length, lengths)
    return SampleTokens(np.arange(NUM), content)


@pytest.mark.parametrize("size", ["demo", "demo_large"])
def test_captions_that_lack_one_word_are_seen_beside_whole_pictures(size):
    """At least 1 % of all samples: with .05 %, gaps were filled with whole captions."""
    modalities = ModalitySet.load(CONFIGS / "modalities" / f"{size}.yaml")
    masking = load(PretrainConfig, CONFIGS / "pretrain" / f"{size}.yaml", []).masking
    assert masking is not None
    batch = Masker(modalities, masking, seed=0)(_scenes(modalities), np.arange(NUM))
    sample = np.repeat(np.arange(NUM), batch.encoder.lengths)
    kind, token = batch.encoder.kinds, batch.encoder.token.numpy()

    def num_of(rows: np.ndarray) -> np.ndarray:
        return np.bincount(sample[rows], minlength=NUM)

    caption = kind == modalities.index("caption")
    gaps = caption & (token >= FIRST_SENTINEL) & (token < FIRST_SENTINEL + 14)
    pixels = num_of(kind == modalities.index("pixels")) == modalities["pixels"].num_tokens
    lacking = pixels & (num_of(caption) == LONGEST) & (num_of(gaps) == 1)
    assert lacking.mean() > 0.01
