"""The any-to-any matrix: how well each modality alone predicts each other one, in nats a token on
held-out samples.

The row "nothing" is the model's prediction with an empty input, the column's own difficulty; what
another row is below it, that input tells about the target. Needs no metric of its own for a
modality, so it holds for those that nobody has heard of.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fourm.data.store import Source
from fourm.masking import Masker, MaskingComponent, MaskingConfig
from fourm.model import FourM

NOTHING = "nothing"


@torch.inference_mode()
def token_matrix(
    model: FourM, source: Source, num: int = 64, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, float]]:
    """Cross-entropy of whole targets given whole single inputs.

    Args:
        model: in evaluation mode; source: held-out samples; num: how many of them.

    Returns:
        ``matrix[input][target]`` in nats a token; an input does not predict itself.
    """
    modalities = model.modalities
    tokens = source.gather(np.arange(min(num, source.num_samples)))
    inputs = [NOTHING, *(m.name for m in modalities.inputs if m.name in source.present)]
    targets = [m.name for m in modalities.outputs if m.name in source.present]
    matrix: dict[str, dict[str, float]] = {name: {} for name in inputs}
    pairs = [(a, b) for a in inputs for b in targets if a != b]
    for done, (given, wanted) in enumerate(pairs):
        most_in = 0 if given == NOTHING else modalities[given].num_tokens
        most_out = 2 * modalities[wanted].num_tokens + 2
        component = MaskingComponent(
            input={} if given == NOTHING else {given: 1000.0},
            target={wanted: 1000.0},
            keep={given: "all"}
            if given in modalities and modalities[given].kind == "sequence"
            else {},
        )
        config = MaskingConfig(
            num_inputs=(most_in, most_in), num_targets=(most_out, most_out), components=(component,)
        )
        batch = Masker(modalities, config, seed=0)(tokens, tokens.samples).to(model.device)
        losses = model(batch)
        i = modalities.index(wanted)
        matrix[given][wanted] = float(losses.sums[i] / losses.counts[i].clamp_min(1))
        if progress is not None:
            progress(done + 1, len(pairs))
    return matrix
