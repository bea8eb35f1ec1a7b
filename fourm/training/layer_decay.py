"""Layer-wise decay of learning rates, as BEiT and MAE fine-tune: what lies deeper keeps more of
what it knows, so each layer's rate is a fixed share of the next one's.

Embeddings learn slowest; norms and heads behind the last layer, and whatever a fine-tuning puts
there, at the full rate.
"""

from __future__ import annotations

from torch import nn

from fourm.model.blocks import Block

# what comes before the first layer, by the beginnings of its names in a model
_BEFORE = (
    "tokens.",
    "positions.",
    "modality",
    "vector_in.",
    "registers",
    "mask_token",
    "latents.",
    "decoder_tokens.",
    "decoder_positions.",
    "decoder_modality",
)


def rate_shares(model: nn.Module, decay: float) -> dict[str, float]:
    """Share of the learning rate of each parameter: 1 behind the last of L layers of which anything
    learns, ``decay`` to the power of L - i in layer i (from 0), and of L + 1 before the first.
    """
    blocks = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Block) and any(p.requires_grad for p in module.parameters())
    ]
    shares = {}
    for name, _ in model.named_parameters():
        inside = [i for i, block in enumerate(blocks) if name.startswith(f"{block}.")]
        own = name.removeprefix("backbone.")  # of a model that is fine-tuned with a head
        if inside:
            shares[name] = decay ** (len(blocks) - inside[0])
        else:
            shares[name] = decay ** (len(blocks) + 1) if own.startswith(_BEFORE) else 1.0
    return shares
