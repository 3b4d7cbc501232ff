"""Whether numbers rise in a given order: Page's test of rows that share seeds, Jonckheere's of independent samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence


def page_trend(rows: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(L, one-sided p) of Page's (1963) test that the columns rise, against no order within the rows (one a seed).

    L = Σⱼ j · (sum of column j's ranks within the rows); the p-value is exact for few rows and columns, else normal.
    """
    import scipy.stats

    found = scipy.stats.page_trend_test(rows)
    return float(found.statistic), float(found.pvalue)


def jonckheere(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(J, one-sided p) of Jonckheere's (1954) test that independent samples rise in their order.

    J = number of pairs (x from an earlier sample, y from a later) with y > x, ties as one half. Without ties the
    p-value is exact: J is a sum of independent Mann-Whitney counts. With ties it is normal.
    """
    j = 0.0
    for i, later in enumerate(samples):
        for earlier in samples[:i]:
            j += sum((y > x) + (y == x) / 2 for x in earlier for y in later)
    sizes = [len(sample) for sample in samples]
    flat = [x for sample in samples for x in sample]
    if len(set(flat)) == len(flat):
        counts = _orders_by_j(tuple(sizes))
        return j, sum(counts[round(j) :]) / sum(counts)
    from scipy.special import ndtr

    total = sum(sizes)
    expected = (total**2 - sum(n**2 for n in sizes)) / 4
    variance = (total**2 * (2 * total + 3) - sum(n**2 * (2 * n + 3) for n in sizes)) / 72
    return j, float(ndtr(-(j - expected) / math.sqrt(variance)))


@functools.cache
def _orders_by_j(sizes: tuple[int, ...]) -> list[int]:
    """In how many of the orders of different numbers J has each value from 0 on."""
    counts = [1]
    for i, size in enumerate(sizes[1:], 1):
        counts = _convolve(counts, _mann_whitney(sum(sizes[:i]), size))
    return counts


@functools.cache
def _mann_whitney(m: int, n: int) -> tuple[int, ...]:
    """In how many of the orders of m + n different numbers U has each value 0 … mn."""
    if m == 0 or n == 0:
        return (1,)
    shifted, other = _mann_whitney(m - 1, n), _mann_whitney(m, n - 1)
    counts = [0] * (m * n + 1)
    for u, count in enumerate(shifted):  # the largest number is of the first sample: none of the second is above it
        counts[u] += count
    for u, count in enumerate(other):  # it is of the second: it is above all m of the first
        counts[u + m] += count
    return tuple(counts)


def _convolve(a: Sequence[int], b: Sequence[int]) -> list[int]:
    out = [0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            out[i + j] += x * y
    return out
