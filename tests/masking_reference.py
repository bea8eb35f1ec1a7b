"""4M's masking written down plainly, a sample at a time, with numpy's generator: what the fast
masker is compared with.
"""

from __future__ import annotations

import numpy as np

from fourm.batches.masking import MaskingConfig
from fourm.modalities import FIRST_SENTINEL, ModalitySet


def budgets(rng: np.random.Generator, alphas: np.ndarray, total: int) -> np.ndarray:
    """Floors of Dirichlet shares; each token left over goes to the largest share of a fresh
    draw.
    """
    alphas = np.maximum(alphas, 1e-9)
    result = np.floor(dirichlet(rng, alphas) * total).astype(int)
    for _ in range(total - result.sum()):
        result[dirichlet(rng, alphas).argmax()] += 1
    return result


def dirichlet(rng: np.random.Generator, alphas: np.ndarray) -> np.ndarray:
    """A draw that is right for alphas near 0 too: gamma(a) = gamma(a + 1) u^(1/a), in
    logarithms.
    """
    log_g = np.log(rng.gamma(alphas + 1.0)) + np.log(rng.uniform(size=len(alphas))) / alphas
    share = np.exp(log_g - log_g.max())
    return share / share.sum()


def hide(ids: np.ndarray, keep: np.ndarray) -> tuple[list[int], list[int]]:
    """Input with a sentinel for each run of hidden ids, and the target that fills them in."""
    given, target, number = [], [], 0
    for i, token in enumerate(ids):
        if keep[i]:
            given.append(int(token))
            continue
        if i == 0 or keep[i - 1]:
            given.append(FIRST_SENTINEL + number)
            target.append(FIRST_SENTINEL + number)
            number += 1
        target.append(int(token))
    return given, [*target, FIRST_SENTINEL + number]


def mask_sample(
    rng: np.random.Generator,
    modalities: ModalitySet,
    config: MaskingConfig,
    ids: dict[str, np.ndarray],
) -> dict[str, tuple[int, int, int]]:
    """(inputs, predictions, sentinels in the input) of each modality of one sample, redistribution
    off.
    """
    weights = np.array([c.weight for c in config.components])
    component = config.components[rng.choice(len(weights), p=weights / weights.sum())]
    num_in = rng.integers(config.num_inputs[0], config.num_inputs[1] + 1)
    num_out = rng.integers(config.num_targets[0], config.num_targets[1] + 1)
    names = [m.name for m in modalities]
    alpha_in = np.array(
        [
            component.input.get(m.name, component.input_default) if m.input else 0.0
            for m in modalities
        ]
    )
    alpha_out = np.array(
        [
            component.target.get(m.name, component.target_default) if m.output else 0.0
            for m in modalities
        ]
    )
    most = np.array([m.num_tokens for m in modalities])
    given = np.minimum(budgets(rng, alpha_in, num_in), most)
    room = np.array(
        [
            n - g if m.kind != "sequence" else n
            for m, n, g in zip(modalities, most, given, strict=True)
        ]
    )
    wanted = np.minimum(budgets(rng, alpha_out, num_out), room)
    result = {}
    for m, budget_in, budget_out in zip(modalities, given, wanted, strict=True):
        if m.kind != "sequence":
            result[m.name] = (int(budget_in), int(budget_out), 0)
            continue
        sequence = ids[m.name]
        rule = component.keep.get(m.name, "random")
        if budget_in == 0:
            shown, target = [], [FIRST_SENTINEL, *sequence, FIRST_SENTINEL + 1]
        else:
            q = {"random": rng.uniform(), "all": 1.0, "binary": float(rng.integers(2))}[rule]
            shown, target = hide(sequence, rng.uniform(size=len(sequence)) <= q)
            while len(shown) > budget_in:
                q *= 0.9
                shown, target = hide(sequence, rng.uniform(size=len(sequence)) <= q)
        length = min(len(target), int(budget_out))
        result[m.name] = (
            len(shown),
            max(length - 1, 0),
            sum(FIRST_SENTINEL <= t < FIRST_SENTINEL + 199 for t in shown),
        )
    assert set(result) == set(names)
    return result
