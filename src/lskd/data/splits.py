"""Seeded splits of a data set that keep its class proportions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def stream(seed: int, purpose: str) -> np.random.RandomState:
    """Random numbers for one purpose. RandomState, not Generator: NumPy's policy (NEP 19) freezes its stream, so that
    what is drawn stays the same for ever. Integers are to be drawn with a dtype, whose default is the machine's."""
    import numpy as np

    return np.random.RandomState([seed, *purpose.encode()])


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """Of `count` examples those of each class, in proportion to their `sizes`.

    Shares are rounded by the largest remainder; of equal remainders the smaller label goes first.
    Raises ValueError unless 0 <= count <= the sum of `sizes`.
    """
    if not 0 <= count <= (total := sum(sizes)):
        raise ValueError(f"count = {count}: must be >= 0 and <= {total}")
    # Integers throughout: a share of size * count / total has no rounding error that a platform could decide.
    rounded = [divmod(size * count, max(total, 1)) for size in sizes]
    found = [share for share, _ in rounded]
    for label in sorted(range(len(sizes)), key=lambda label: -rounded[label][1])[: count - sum(found)]:
        found[label] += 1
    return found


def count(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """How many of the `labels` (N,) each of the `classes` has."""
    import numpy as np

    return tuple(np.bincount(labels, minlength=classes).tolist())


def class_balanced(labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw exactly `count` of the examples, from each class in proportion to its size.

    labels: (N,) integers. Returns the indices of the chosen examples and of the rest, each (n,) int64 and sorted.
    Raises ValueError unless 0 <= count <= N.
    """
    import numpy as np

    classes, sizes = np.unique(labels, return_counts=True)
    rng = np.random.RandomState(seed)  # as `stream`, but without a purpose: the first splits were drawn so
    is_chosen = np.zeros(len(labels), dtype=bool)
    for label, share in zip(classes, shares(sizes.tolist(), count), strict=True):
        is_chosen[rng.permutation(np.flatnonzero(labels == label))[:share]] = True
    return np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)
