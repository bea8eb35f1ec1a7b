"""Distances between two sets of feature vectors (n, D) and (m, D).

The Fréchet distance compares their Gaussians (Heusel et al., 1706.08500); with fewer samples than
dimensions it is far above that of many samples, so it is compared only at one number of samples.
The kernel distance (Bińkowski et al., 1801.01401) is unbiased at any number and has a standard
error. Which network the features are of is the caller's to say: these are no FID and KID, whose
names mean Inception's.
"""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean - mean|^2 + trace(A + B - 2 (A B)^(1/2)) of the covariances A and B."""
    offset = a.mean(0) - b.mean(0)
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    # with A = a'a and B = b'b the root's trace is the sum of the singular values of a b'
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(offset @ offset + (a**2).sum() + (b**2).sum() - 2 * root)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The unbiased squared maximum mean discrepancy of the kernel (x y / D + 1)^3, and its standard
    error by the jackknife over the samples of both sets. Needs three samples of each.
    """
    d = a.shape[1]
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    n, m = len(a), len(b)
    own_a, own_b = (k.sum(1) - np.diag(k) for k in (aa, bb))  # of each sample with all others
    pairs_a, pairs_b, across = own_a.sum(), own_b.sum(), ab.sum()
    within_a, within_b = pairs_a / (n * (n - 1)), pairs_b / (m * (m - 1))
    value = within_a + within_b - 2 * across / (n * m)
    # the value without one sample of a, and without one of b
    fewer_a = (pairs_a - 2 * own_a) / ((n - 1) * (n - 2))
    left_a = fewer_a + within_b - 2 * (across - ab.sum(1)) / ((n - 1) * m)
    fewer_b = (pairs_b - 2 * own_b) / ((m - 1) * (m - 2))
    left_b = within_a + fewer_b - 2 * (across - ab.sum(0)) / (n * (m - 1))
    variance = sum((len(x) - 1) / len(x) * ((x - x.mean()) ** 2).sum() for x in (left_a, left_b))
    return float(value), float(np.sqrt(variance))
