"""Losses of UniMoS (2403.06946) that are no plain cross-entropy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-8  # below it a probability counts as it: log must be finite


def information(probabilities: Tensor) -> Tensor:
    """Mutual information of samples and classes, from opinions p (B, classes):

        H(mean over samples of p) - mean over samples of H(p)

    Sure of each sample, alike over all. Larger is better; needs no labels (SHOT, 2002.08546).
    """
    mean = probabilities.mean(0)
    each = -(probabilities * probabilities.clamp_min(_TINY).log()).sum(1).mean()
    return -(mean * mean.clamp_min(_TINY).log()).sum() - each


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean KL(student || teacher) over samples, of log-probabilities (B, classes)."""
    return (student.exp() * (student - teacher)).sum(1).mean()


def overlap(vision: Tensor, language: Tensor) -> Tensor:
    """Mean square of the products of the two parts (B, d) of each sample; 0 where they are
    orthogonal.
    """
    return (vision * language).sum(1).square().mean()


def told_apart(logits: Tensor, is_language: Tensor) -> Tensor:
    """Binary cross-entropy of a discriminator's logits (n, 1) against what each part is (n,)."""
    return F.binary_cross_entropy_with_logits(logits[:, 0], is_language)
