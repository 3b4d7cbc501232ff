"""What a handful of seeds says about a mean, a difference and a slope.

Conventions: x₁ … xₙ are the numbers of n runs that differ in their seeds alone; m is their mean; s is their sample
standard deviation (n - 1 in the denominator); t(q, df) is the q-quantile of Student's distribution. Where n = 1 nothing
is known about the spread: standard deviation, interval and p-value are None, never 0.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95

# Standard errors below this are rounding, not spread: metrics are percentages, fractions or nats, in double precision.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error `error` on `df` degrees of freedom, from samples of the sizes `n`.

    n has one entry for a single or a paired sample, two for Welch's. error, df: None where a sample has one value.
    """

    mean: float
    error: float | None
    df: float | None
    n: tuple[int, ...]

    @property
    def has_spread(self) -> bool:
        """Whether the runs differ at all. Where they do not, a t-interval has no width, and says nothing."""
        return self.error is not None and self.error > ROUNDING

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """mean ± t((1 + level)/2, df) · error."""
        if self.error is None or self.df is None:
            return None
        import scipy.stats  # here and below: a second to import, which `lskd-report --help` need not wait for

        half = float(scipy.stats.t.ppf((1 + level) / 2, self.df)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided: 2 · P(t_df > |mean - null| / error). None without spread."""
        if not self.has_spread:
            return None
        import scipy.stats

        assert self.error is not None and self.df is not None
        return float(2 * scipy.stats.t.sf(abs(self.mean - null) / self.error, self.df))


def mean(values: Iterable[float]) -> float:
    """m = (1/n) Σ xᵢ."""
    return statistics.fmean(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """s = √( Σ (xᵢ - m)² / (n - 1) ); None where n = 1."""
    return statistics.stdev(values) if len(values) > 1 else None


def one_sample(values: Sequence[float]) -> Estimate:
    """The mean m of one sample, with error s/√n on n - 1 degrees of freedom."""
    n, s = len(values), standard_deviation(values)
    if s is None:
        return Estimate(mean(values), None, None, (n,))
    return Estimate(mean(values), s / math.sqrt(n), n - 1, (n,))


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """The mean of a - b over the seeds that both have: `one_sample` of dₛ = aₛ - bₛ.

    What a seed does to both alike (initial weights, the order of the data) cancels in dₛ.
    """
    return one_sample([a[seed] - b[seed] for seed in a if seed in b])


def welch_difference(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """m_a - m_b of independent samples with variances of their own (Welch 1947).

    error² = u + v with u = s_a²/n_a, v = s_b²/n_b; df = (u + v)² / (u²/(n_a - 1) + v²/(n_b - 1)).
    """
    n, difference = (len(a), len(b)), mean(a) - mean(b)
    s_a, s_b = standard_deviation(a), standard_deviation(b)
    if s_a is None or s_b is None:
        return Estimate(difference, None, None, n)
    u, v = s_a**2 / n[0], s_b**2 / n[1]
    if u + v == 0:
        return Estimate(difference, 0.0, sum(n) - 2, n)
    return Estimate(difference, math.sqrt(u + v), (u + v) ** 2 / (u**2 / (n[0] - 1) + v**2 / (n[1] - 1)), n)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate:
    """a - b of numbers by seed: paired over the seeds that both have, Welch's where they share none."""
    if a.keys() & b.keys():
        return paired_difference(a, b)
    return welch_difference(list(a.values()), list(b.values()))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of y over x: Σ (xᵢ - m_x)(yᵢ - m_y) / Σ (xᵢ - m_x)²."""
    m_x, m_y = mean(x), mean(y)
    return math.fsum((a - m_x) * (b - m_y) for a, b in zip(x, y, strict=True)) / math.fsum((a - m_x) ** 2 for a in x)
