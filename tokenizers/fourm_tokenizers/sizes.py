"""What the settings of a learned tokenizer say of its tokens, without the network: modality sets
are read by programs that never open one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fourm.codec_types import Sizes, codebook_sizes, plain_sizes, whole
from fourm.raw import Raw


def autoencoder_sizes(settings: Mapping[str, Any], raw: Raw) -> Sizes:
    """Sizes from the settings of ``TokenizerConfig`` and, within them, of its quantizer.

    A quantizer's ids are counted by its ``codebook_size`` or ``levels``, whatever its type; each
    place of a residual one has ``num_codebooks`` ids.
    """
    sizes = plain_sizes(settings, raw)
    quantizer = settings.get("quantizer")
    if not isinstance(quantizer, dict):
        return sizes
    vocab_size, levels = codebook_sizes(quantizer)
    return replace(
        sizes,
        vocab_size=whole(quantizer, "codebook_size") or vocab_size,
        levels=levels,
        num_tokens=sizes.num_tokens * whole(quantizer, "num_codebooks", 1),
    )
