"""Metrics of raw predictions against the truth; numpy, a few lines each. A raw type names its own
(``Raw.figures``).

Dense metrics take an optional mask, so that the same figure can be given on some pixels only
(objects, say).
"""

from __future__ import annotations

import numpy as np


def psnr(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, mean over pictures; uint8 (B, H, W, C)."""
    error = (
        ((predicted.astype(np.float64) - truth.astype(np.float64)) ** 2)
        .reshape(len(truth), -1)
        .mean(1)
    )
    return float((10 * np.log10(255.0**2 / np.maximum(error, 1e-10))).mean())


def spatial_deviation(pictures: np.ndarray) -> float:
    """How much pictures vary over their own places: standard deviation over the pixels of each
    channel of each picture, mean over channels and pictures, in levels; (B, H, W, C).
    """
    return float(pictures.astype(np.float64).std((1, 2)).mean())


def range_psnr(predicted: np.ndarray, truth: np.ndarray, over: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB of numbers whose peak is the width of their range, of all of
    them together. (Releases up to 0.7 called it ``psnr``, which is that of pictures.)
    """
    error = ((predicted.astype(np.float64) - truth) / (over[1] - over[0])) ** 2
    return float(10 * np.log10(1.0 / max(error.mean(), 1e-10)))


def error_figures(
    predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, float]:
    """Mean absolute error and root of the mean squared one, in the units of the values; a mask
    (B, H, W) chooses pixels.
    """
    error = predicted.astype(np.float64) - truth
    error = error if mask is None else error[mask]
    return {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean()))}


def absrel(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean of |predicted - truth| / truth; (B, H, W), lower is better."""
    error = np.abs(predicted.astype(np.float64) - truth) / np.maximum(
        np.abs(truth.astype(np.float64)), 1e-6
    )
    return float(error.mean() if mask is None else error[mask].mean())


def delta1(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Share of pixels within a factor of 1.25; (B, H, W)."""
    a, b = (
        np.maximum(predicted.astype(np.float64), 1e-6),
        np.maximum(truth.astype(np.float64), 1e-6),
    )
    good = np.maximum(a / b, b / a) < 1.25
    return float(good.mean() if mask is None else good[mask].mean())


def mean_angle(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean angle in degrees between unit vectors (B, H, W, 3), where the truth has one; no
    prediction counts as 90.
    """
    truth = truth.astype(np.float64)
    length = np.linalg.norm(truth, axis=-1)
    there = length > 0.5 if mask is None else (length > 0.5) & mask
    p, t = predicted[there].astype(np.float64), truth[there] / length[there][:, None]
    size = np.linalg.norm(p, axis=-1)
    cosine = np.where(size > 1e-3, (p * t).sum(-1) / np.maximum(size, 1e-3), 0.0)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).mean())


def class_figures(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, mask: np.ndarray | None = None
) -> dict[str, float]:
    """Mean intersection over union and share of right pixels of class ids (B, H, W)."""
    right = predicted == truth
    accuracy = float((right if mask is None else right[mask]).mean())
    return {"miou": mean_iou(predicted, truth, num_classes, mask), "accuracy": accuracy}


def mean_iou(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, mask: np.ndarray | None = None
) -> float:
    """Mean over classes (those that occur) of intersection over union, pixels of all pictures
    together.
    """
    if mask is not None:
        predicted, truth = predicted[mask], truth[mask]
    scores = []
    for c in range(num_classes):
        union = ((predicted == c) | (truth == c)).sum()
        if union:
            scores.append(((predicted == c) & (truth == c)).sum() / union)
    return float(np.mean(scores))


def mean_cosine(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean cosine of feature vectors in the last axis."""
    a, b = predicted.astype(np.float64), truth.astype(np.float64)
    size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(size, 1e-12)).mean())


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4) as x0, y0, x1, y1 -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    area = lambda x: np.clip(x[:, 2:] - x[:, :2], 0, None).prod(-1)  # noqa: E731
    return inside / np.maximum(area(a)[:, None] + area(b)[None] - inside, 1e-9)


def box_f1(predicted: list[list[dict]], truth: list[list[dict]], threshold: float = 0.5) -> float:
    """F1 over all pictures of boxes with the same label and at least this overlap, matched one to
    one, best first.
    """
    matched = total_predicted = total_true = 0
    for p, t in zip(predicted, truth, strict=True):
        total_predicted, total_true = total_predicted + len(p), total_true + len(t)
        if not p or not t:
            continue
        overlap = box_iou(
            np.array([x["box"] for x in p], float), np.array([x["box"] for x in t], float)
        )
        overlap *= np.array([[x["label"] == y["label"] for y in t] for x in p])
        while overlap.size and overlap.max() >= threshold:
            i, j = np.unravel_index(overlap.argmax(), overlap.shape)
            overlap[i], overlap[:, j] = -1, -1
            matched += 1
    return 2 * matched / max(total_predicted + total_true, 1)


def feature_figures(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Cosine and root mean square error of feature vectors in the last axis."""
    error = predicted.astype(np.float64) - truth
    return {"cosine": mean_cosine(predicted, truth), "rmse": float(np.sqrt((error**2).mean()))}
