"""Iterative sampling: any modalities from any others.

``sampler`` generates a target with ``options``: ``grids`` in the order of one of the ``schemes``,
``sequences`` with the cached decoder of ``autoregressive``. A ``task`` is what both share:
``guidance``, ``schedules``, ``choose`` (an id from logits), ``draws`` (random numbers), ``state``.
"""
