"""Muon's matrices are as orthogonal as they were with five steps of its first polynomial, for the
price of four; the coefficients are what the paper's rule gives.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.training.optimizers import POLYNOMIALS, SMALLEST, orthogonalize


def five_steps(matrices: Tensor) -> Tensor:
    """Muon as it was published: one polynomial, and Frobenius' norm as the bound."""
    x = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if matrices.shape[-2] > matrices.shape[-1] else x


def spectrum(rows: int, columns: int, exponent: float) -> Tensor:
    """Eight matrices whose singular values fall as k^-exponent."""
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(8, rows, columns), full_matrices=False)
    s = torch.arange(1.0, s.shape[-1] + 1) ** -exponent
    return u * s @ v


def distance(found: Tensor, matrices: Tensor) -> float:
    """Root mean square over singular directions of what is off U V^T."""
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    return float((found - u @ v).norm() / (len(found) * min(matrices.shape[-2:])) ** 0.5)


def test_four_steps_are_on_the_mean_as_near_to_orthogonal_as_five_were():
    ours, before = [], []
    for shape in ((64, 64), (96, 32), (32, 96)):
        for exponent in (0.0, 0.5, 1.0, 1.5):
            matrices = spectrum(*shape, exponent)
            ours.append(distance(orthogonalize(matrices), matrices))
            before.append(distance(five_steps(matrices), matrices))
    assert np.mean(ours) < np.mean(before) and max(ours) < max(before), (ours, before)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
def test_no_singular_value_leaves_the_polynomials_range_in_either_precision(exponent, scale):
    for dtype in (torch.float32, torch.bfloat16):
        found = orthogonalize((spectrum(64, 48, exponent) * scale).to(dtype))
        assert found.dtype == dtype
        assert float(torch.linalg.svdvals(found.float()).max()) < 1.3


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalize(torch.zeros(2, 8, 4)).any()


def best_quintic(low: float, high: float) -> np.ndarray:
    """(a, b, c): a s + b s^3 + c s^5 nearest to 1 on [low, high], by Remez' exchange."""
    points = np.array([low, low + (high - low) / 4, low + (high - low) * 3 / 4, high])
    a = b = c = 0.0
    for _ in range(50):
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        a, b, c, _ = np.linalg.solve(
            np.stack([points, points**3, points**5, signs], axis=1), np.ones(4)
        )
        extrema = np.sqrt(np.roots([5 * c, 3 * b, a]))
        points = np.array([low, *sorted(extrema), high])
    return np.array([a, b, c])


def test_the_coefficients_are_the_best_for_what_the_step_before_left():
    low, high = SMALLEST, 1.0
    for coefficients in POLYNOMIALS:
        a, b, c = best_quintic(low, high)
        np.testing.assert_allclose(coefficients, (a, b, c), rtol=1e-3)
        error = 1 - (a * low + b * low**3 + c * low**5)
        low, high = 1 - error, 1 + error
