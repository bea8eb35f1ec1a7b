"""Which pairs to label when few can be: diverse ones (a greedy k-DPP), good ones, or random ones
(FuseMix, section on data).
"""

from __future__ import annotations

import numpy as np

from fourm.errors import UserError


def greedy_dpp(vectors: np.ndarray, num: int, quality: np.ndarray | None = None) -> np.ndarray:
    """Numbers of ``num`` diverse rows: greedy maximum of det of the kernel (cosine + 1)^2, weighted
    by ``quality`` (n,) > 0.

    In feature form: n x num numbers and no n x n matrix (Chen et al., 1709.05135). Vectors are (n,
    d).
    """
    n = len(vectors)
    if not 1 <= num <= n:
        raise UserError(f"cannot choose {num} of {n}")
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    weight = np.ones(n) if quality is None else np.asarray(quality, np.float64)
    factors = np.zeros((n, num))
    gain = 4.0 * weight**2  # (1 + 1)^2
    chosen: list[int] = []
    for step in range(num):
        best = int(np.argmax(gain))
        chosen.append(best)
        if step + 1 == num:
            break
        row = (unit @ unit[best] + 1.0) ** 2 * weight * weight[best]
        new = (row - factors[:, :step] @ factors[best, :step]) / np.sqrt(max(gain[best], 1e-12))
        factors[:, step] = new
        gain = gain - new**2
        gain[chosen] = -np.inf
    return np.array(chosen)


def best_quality(quality: np.ndarray, num: int) -> np.ndarray:
    """Numbers of the ``num`` rows of highest quality, e.g.

    the agreement of a picture and its caption.
    """
    return np.argsort(-quality, kind="stable")[:num]
