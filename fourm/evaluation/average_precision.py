"""Average precision of labelled boxes, as COCO has it (1405.0312): for each label and each overlap
the mean precision at 101 recalls, of all pictures together, surest boxes first. Numpy; equal to
pycocotools (``tests/test_evaluate_detection.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm.evaluation.metrics import box_iou

OVERLAPS = tuple(np.linspace(0.5, 0.95, 10))
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # boxes of one label in one picture that count, the surest

Picture = list[dict[str, Any]]  # its boxes


def average_precision(
    predicted: Sequence[Picture], truth: Sequence[Picture], overlaps: Sequence[float] = OVERLAPS
) -> float:
    """Mean over overlaps and over the labels that the truth has; NaN if it has none.

    Args:
        predicted: boxes of each picture; ``score`` says how sure they are, 1 where it is not said.
            Of equals the first counts as surer.
    """
    labels = sorted({box["label"] for boxes in truth for box in boxes})
    each = [_of_label(_only(predicted, name), _only(truth, name), overlaps) for name in labels]
    return float(np.mean(each)) if each else float("nan")


def _only(pictures: Sequence[Picture], label: str) -> list[Picture]:
    return [[box for box in boxes if box["label"] == label] for boxes in pictures]


def _of_label(
    predicted: list[Picture], truth: list[Picture], overlaps: Sequence[float]
) -> np.ndarray:
    """Average precision at each overlap, of boxes of one label."""
    ranked = [sorted(boxes, key=_score, reverse=True)[:_MOST] for boxes in predicted]
    surest = np.argsort([-_score(box) for boxes in ranked for box in boxes], kind="stable")
    tables = [box_iou(_corners(p), _corners(t)) for p, t in zip(ranked, truth, strict=True)]
    num = sum(map(len, truth))
    found = []
    for overlap in overlaps:
        hits = np.concatenate([_matched(table, overlap) for table in tables])
        found.append(_area(hits[surest], num))
    return np.array(found)


def _score(box: dict[str, Any]) -> float:
    return box.get("score", 1.0)


def _corners(boxes: Picture) -> np.ndarray:
    return np.array([box["box"] for box in boxes], np.float64).reshape(-1, 4)


def _matched(table: np.ndarray, overlap: float) -> np.ndarray:
    """Which of the boxes (n, m), the surest first, take a true one that is still free."""
    free = np.ones(table.shape[1], bool)
    hits = np.zeros(len(table), bool)
    for number, row in enumerate(table):
        near = np.where(free, row, -1.0)
        if len(near) and near.max() >= min(overlap, 1 - 1e-10):
            free[near.argmax()], hits[number] = False, True
    return hits


def _area(hits: np.ndarray, num: int) -> float:
    """Mean precision at 101 recalls of ``num`` true boxes: the best at that recall or a higher."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / num, _RECALLS)
    return float(np.append(best, 0.0)[at].mean())
