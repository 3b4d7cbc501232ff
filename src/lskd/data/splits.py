"""Seeded splits of a data set that keep its class proportions."""

from __future__ import annotations

import numpy as np


def class_balanced(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw exactly `count` of the examples, from each class in proportion to its size.

    labels: (N,) integers. Returns the indices of the chosen examples and of the rest, each (n,) int64 and sorted.
    Shares are rounded by the largest remainder; of equal remainders the smaller label goes first.
    Raises ValueError unless 0 <= count <= N.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"count = {count}: must be >= 0 and <= {len(labels)}")
    classes, sizes = np.unique(labels, return_counts=True)
    # Integers throughout: a share of size * count / N has no rounding error that a platform could decide.
    shares, remainders = np.divmod(sizes.astype(np.int64) * count, max(len(labels), 1))
    largest = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[largest] += 1

    # RandomState, not Generator: NumPy's policy (NEP 19) freezes its stream, so that a split stays the same for ever.
    rng = np.random.RandomState(seed)
    is_chosen = np.zeros(len(labels), dtype=bool)
    for label, share in zip(classes, shares, strict=True):
        is_chosen[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)
