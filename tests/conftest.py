"""Shared fixtures: a tiny modality set, tokens for it, and a tiny model; everything is small enough
for one CPU core.
"""

import numpy as np
import pytest
import torch
import varlen_emulation

from fourm.batches.masking import Masker, MaskingComponent, MaskingConfig
from fourm.batches.tokens import SampleTokens
from fourm.modalities import ModalitySet
from fourm.model.model import FourM, ModelConfig

torch.set_num_threads(1)

TINY = {
    "tokenizers": {"text": {"type": "text", "vocab_size": 120, "num_sentinels": 16}},
    "modalities": {
        "rgb": {
            "kind": "grid",
            "raw": {"type": "image", "size": 16},
            "tokenizer": {"type": "autoencoder", "levels": [4, 3, 5], "patch_size": 4},
        },
        "pixels": {"kind": "continuous", "source": "rgb", "patch_size": 4},
        "depth": {
            "kind": "grid",
            "raw": {"type": "depth", "size": 16},
            "vocab_size": 24,
            "grid": [4, 4],
        },
        "code": {
            "kind": "set",
            "raw": {"type": "array", "size": 4, "channels": 2},
            "vocab_size": 32,
            "max_tokens": 6,
        },
        "caption": {
            "kind": "sequence",
            "raw": {"type": "text"},
            "tokenizer": "text",
            "max_tokens": 12,
        },
        "boxes": {
            "kind": "sequence",
            "raw": {"type": "boxes"},
            "tokenizer": "text",
            "max_tokens": 18,
            "chunk_size": 3,
        },
    },
}

ALL_TO_ALL = MaskingConfig(
    num_inputs=(4, 24),
    num_targets=(10, 24),
    components=(
        MaskingComponent(input_default=0.5, target_default=0.5),
        MaskingComponent(input={"pixels": 100.0}, target_default=0.5),
        MaskingComponent(
            input={"caption": 5.0, "depth": 0.5},
            target={"rgb": 1.0, "boxes": 1.0},
            keep={"caption": "all"},
        ),
    ),
)


def make_arrays(
    modalities: ModalitySet, num: int, seed: int = 0, lacking: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Random ids (B, L) or vectors (B, L, C) of ``num`` samples, and lengths (B,); sequences have
    lengths of their own; ``lacking`` is absent from every second sample.
    """
    rng = np.random.default_rng(seed)
    arrays, lengths = {}, {}
    for m in modalities:
        lengths[m.name] = np.full(num, m.num_tokens)
        if m.kind == "continuous":
            arrays[m.name] = rng.normal(size=(num, m.num_tokens, m.width)).astype(np.float32)
        elif m.kind == "sequence":
            arrays[m.name] = rng.integers(40, m.vocab_size, (num, m.num_tokens))
            lengths[m.name] = rng.integers(3, m.num_tokens + 1, num)
        else:
            arrays[m.name] = rng.integers(0, m.vocab_size, (num, m.num_tokens))
        if m.name == lacking:
            lengths[m.name][::2] = 0
    return arrays, lengths


def make_tokens(
    modalities: ModalitySet, num: int, seed: int = 0, lacking: str = ""
) -> SampleTokens:
    """The same as samples that can be masked."""
    return SampleTokens.from_arrays(np.arange(num), *make_arrays(modalities, num, seed, lacking))


@pytest.fixture(scope="session")
def modalities() -> ModalitySet:
    return ModalitySet.from_mapping(TINY)


@pytest.fixture(scope="session")
def masker(modalities) -> Masker:
    return Masker(modalities, ALL_TO_ALL, seed=3)


def make_model(modalities: ModalitySet, **options) -> FourM:
    """A tiny model whose output projections are not zero, so that every path matters."""
    torch.manual_seed(0)
    model = FourM(
        ModelConfig(
            **{"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4, **options}
        ),
        modalities,
    )
    for name, p in model.named_parameters():
        if name.endswith(("proj.weight", "fc_out.weight")) or name == "heads.table":
            torch.nn.init.normal_(p, std=0.3)
        if name in ("heads.levels", "mask_token"):
            torch.nn.init.normal_(p, std=0.3)
    for table in (model.tokens, model.heads):
        if table is not None and table.levels is not None:
            table.levels.data[0] = 0.0
    return model.eval()


@pytest.fixture(scope="session")
def model(modalities) -> FourM:
    return make_model(modalities)


@pytest.fixture
def varlen_on_cpu(monkeypatch):
    """``torch.nn.attention.varlen`` block by block on any device: what its calls mean."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    monkeypatch.setattr(varlen, "varlen_attn", varlen_emulation.varlen_attn)
