"""What a handful of seeds says of a mean, a difference, an association, and a number that somebody printed.

The rule, in short (docs/statistics.md has the reasons and the references):

- x₁ … xₙ are the numbers of n runs that differ in their seeds alone; m is their mean; s is their sample standard
  deviation (n - 1 in the denominator); t(q, df) is the q-quantile of Student's distribution. Where n = 1 nothing is
  known about the spread: standard deviation, interval and p-value are None, never 0.
- A contrast Σ cᵢ mᵢ of cells is estimated by a declared model of its spread: *paired* (of the differences seed by
  seed), *independent* (each cell's own) or *pooled* (one spread for all cells of a table).
- Superiority is two-sided at 95 %; equality is two one-sided tests (TOST) at 5 % each, which is a 90 % interval within
  the margin. p-values are on one scale: at most 0.05 where, and only where, the statement holds.
- An order is tested by `lskd.report.orders`, an association by Spearman's ρ within seeds.
- What a paper prints is compared with a prediction interval, because it has an error of its own.
"""

from __future__ import annotations

import bisect
import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of superiority, of intervals of means, and of prediction intervals
MARGIN_LEVEL = 0.90  # of equality and of other statements about a margin: 5 % a side
LEAST = 3  # runs in each cell below which nothing is decided
POWER = 0.80
# Cells share a spread where equal spreads are not rejected at 5 %, and where a contrast's own is not larger at 25 %.
COVERED = 0.25

# Standard errors below this are rounding, not spread: metrics are percentages, fractions or nats, in double precision.
ROUNDING = 1e-9

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error `error` on `df` degrees of freedom, from samples of the sizes `n`.

    n has one entry for a single or a paired sample, one a cell for independent ones. error, df: None where a sample has
    one value.
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
        half = quantile((1 + level) / 2, self.df) * self.error
        return self.mean - half, self.mean + half

    def p_above(self, bound: float) -> float | None:
        """One-sided, against "not above `bound`": P(t_df > (mean - bound) / error). None without spread."""
        if not self.has_spread:
            return None
        from scipy.special import stdtr  # here and below: imported by those who have numbers, not by `--help`

        assert self.error is not None and self.df is not None
        return float(stdtr(self.df, -(self.mean - bound) / self.error))

    def p_below(self, bound: float) -> float | None:
        """One-sided, against "not below `bound`"."""
        return Estimate(-self.mean, self.error, self.df, self.n).p_above(-bound)

    def p_value(self, null: float = 0.0) -> float | None:
        """Two-sided: 2 · P(t_df > |mean - null| / error). None without spread."""
        above, below = self.p_above(null), self.p_below(null)
        return None if above is None or below is None else 2 * min(above, below)


def quantile(q: float, df: float) -> float:
    """t(q, df)."""
    from scipy.special import stdtrit

    return float(stdtrit(df, q))


# ---- one sample ---------------------------------------------------------------------------------------------------


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


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """R = Σ kᵢ / Σ nᵢ of runs i that count kᵢ of nᵢ examples, with the error √( N/(N - 1) · Σ (kᵢ - R nᵢ)² ) / Σ nᵢ on
    N - 1 degrees of freedom (Cochran 1977, section 6.4): where all nᵢ are equal, that of the mean of kᵢ/nᵢ."""
    total, runs = math.fsum(denominators), len(denominators)
    found = math.fsum(numerators) / total
    if runs == 1:
        return Estimate(found, None, None, (1,))
    squares = math.fsum((k - found * n) ** 2 for k, n in zip(numerators, denominators, strict=True))
    return Estimate(found, math.sqrt(squares * runs / (runs - 1)) / total, runs - 1, (runs,))


# ---- contrasts of cells: Σ cᵢ mᵢ, as (cᵢ, numbers by seed) ----------------------------------------------------------

Contrast = Sequence[tuple[float, BySeed]]


def shared_seeds(samples: Iterable[BySeed]) -> list[int]:
    """The seeds that all samples have, in the order of the first."""
    first, *others = samples
    return [seed for seed in first if all(seed in other for other in others)]


def by_seed(contrast: Contrast) -> dict[int, float]:
    """dₛ = Σ cᵢ xᵢₛ over the seeds that all cells have."""
    seeds = shared_seeds(sample for _, sample in contrast)
    return {seed: math.fsum(c * sample[seed] for c, sample in contrast) for seed in seeds}


def paired(contrast: Contrast) -> Estimate:
    """`one_sample` of the dₛ: what a seed does to all cells alike (initial weights, order of data) cancels there."""
    return one_sample(list(by_seed(contrast).values()))


def independent(contrast: Contrast) -> Estimate:
    """Σ cᵢ mᵢ of independent samples, each with a variance of its own (Welch 1947; Satterthwaite's degrees of freedom).

    error² = Σ uᵢ with uᵢ = cᵢ² sᵢ²/nᵢ; df = (Σ uᵢ)² / Σ uᵢ²/(nᵢ - 1).
    """
    samples = [(c, list(sample.values())) for c, sample in contrast]
    n = tuple(len(values) for _, values in samples)
    total = math.fsum(c * mean(values) for c, values in samples)
    if min(n) < 2:
        return Estimate(total, None, None, n)
    shares = [c**2 * statistics.variance(values) / len(values) for c, values in samples]
    if sum(shares) == 0:
        return Estimate(total, 0.0, sum(n) - len(n), n)
    df = sum(shares) ** 2 / sum(u**2 / (size - 1) for u, size in zip(shares, n, strict=True))
    return Estimate(total, math.sqrt(sum(shares)), df, n)


@dataclass(frozen=True)
class Pool:
    """The spread that k cells share over n seeds, from xᵢₛ = μᵢ + σₛ + εᵢₛ (cell + seed, additive).

    variance = Σ (xᵢₛ - x̄ᵢ - x̄ₛ + x̄)² / df with df = (n - 1)(k - 1). equal: the p-value of Brown and Forsythe's test
    that the cells' spreads about their seeds' means are equal.
    """

    variance: float
    n: int
    k: int
    equal: float

    @property
    def df(self) -> int:
        return (self.n - 1) * (self.k - 1)

    @property
    def large_enough(self) -> bool:
        """At least three cells and seeds. (Of two cells it is the paired test.)"""
        return self.k >= 3 and self.n >= LEAST

    def covers(self, contrast: Contrast) -> float:
        """The one-sided p-value that the contrast's own spread over seeds is not larger than the pooled one, by F.

        A test over the whole table sees little at n = 3 to 5; this one looks at the cells that matter."""
        from scipy.special import fdtrc

        values = list(by_seed(contrast).values())
        expected = self.variance * sum(c**2 for c, _ in contrast)
        if expected <= ROUNDING**2:
            return 0.0
        return float(fdtrc(len(values) - 1, self.df, statistics.variance(values) / expected))

    def estimate(self, contrast: Contrast) -> Estimate:
        """Σ cᵢ mᵢ with Σ cᵢ = 0, error √(variance · Σ cᵢ²/n)."""
        values = by_seed(contrast)
        error = math.sqrt(self.variance * sum(c**2 for c, _ in contrast) / len(values))
        return Estimate(mean(values.values()), error, self.df, (len(values),))


def pool(cells: Sequence[BySeed]) -> Pool | None:
    """The additive model of `cells` over the seeds that all of them have; None where there is nothing to fit."""
    seeds = shared_seeds(cells) if cells else []
    n, k = len(seeds), len(cells)
    if n < 2 or k < 2:
        return None
    seed_means = {seed: mean(cell[seed] for cell in cells) for seed in seeds}
    centred = [[cell[seed] - seed_means[seed] for seed in seeds] for cell in cells]  # no seed in them
    squares = math.fsum((x - mean(row)) ** 2 for row in centred for x in row)
    return Pool(squares / ((n - 1) * (k - 1)), n, k, equal_spread(centred))


def equal_spread(samples: Sequence[Sequence[float]]) -> float:
    """The p-value of Brown and Forsythe's (1974) test of equal spreads: the analysis of variance of the distances
    zᵢⱼ = |xᵢⱼ - medianᵢ|."""
    from scipy.special import fdtrc

    distances = [[abs(x - statistics.median(sample)) for x in sample] for sample in samples]
    sizes, means = [len(z) for z in distances], [mean(z) for z in distances]
    total, k = sum(sizes), len(samples)
    grand = math.fsum(z for row in distances for z in row) / total
    between = math.fsum(size * (m - grand) ** 2 for size, m in zip(sizes, means, strict=True)) / (k - 1)
    within = math.fsum((z - m) ** 2 for row, m in zip(distances, means, strict=True) for z in row) / (total - k)
    if within <= ROUNDING**2:
        return 1.0 if between <= ROUNDING**2 else 0.0
    return float(fdtrc(k - 1, total - k, between / within))


# ---- associations ------------------------------------------------------------------------------------------------


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's ρ: the correlation of the ranks, ties at their mean; 0 where all of x or of y are equal."""
    a, b = _ranks(x), _ranks(y)
    middle = (len(x) + 1) / 2
    up = math.fsum((p - middle) * (q - middle) for p, q in zip(a, b, strict=True))
    size = math.fsum((p - middle) ** 2 for p in a) * math.fsum((q - middle) ** 2 for q in b)
    return up / math.sqrt(size) if size else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def association(rhos: Sequence[float], points: int) -> tuple[Estimate, float, float]:
    """The mean of ρ over seeds, and one-sided p-values that it is above and below 0.

    Student's t over the seeds; where all seeds have the same ρ, the null of no association within each seed: ρ has mean
    0 and variance 1/(points - 1) there, and the mean over seeds is taken as normal.
    """
    estimate = one_sample(rhos)
    above, below = estimate.p_above(0.0), estimate.p_below(0.0)
    if above is None or below is None:
        from scipy.special import ndtr

        z = estimate.mean * math.sqrt(len(rhos) * (points - 1))
        above, below = float(ndtr(-z)), float(ndtr(z))
    return estimate, above, below


# ---- several statements -------------------------------------------------------------------------------------------


def at_least(k: int, p_values: Sequence[float]) -> float:
    """The p-value of "at least k of these n statements hold": (n - k + 1) · p₍ₖ₎, whatever their dependence.

    The partial conjunction of Benjamini and Heller (2008). k = n is the intersection-union test, the largest p-value
    without a correction; k = 1 is Bonferroni's.
    """
    n = len(p_values)
    return min(1.0, (n - k + 1) * sorted(p_values)[k - 1])


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): of the i-th smallest of n, the largest of (n - j + 1) · p₍ⱼ₎ over j ≤ i."""
    n, adjusted, highest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (n - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def improvement(a: Iterable[float], b: Sequence[float]) -> float:
    """P(a run of a is above a run of b), ties as one half (Agarwal et al. 2021, probability of improvement)."""
    ordered, a = sorted(b), list(a)
    twice = sum(bisect.bisect_left(ordered, x) + bisect.bisect_right(ordered, x) for x in a)  # below, or not above
    return twice / (2 * len(a) * len(b))


# ---- what somebody printed ----------------------------------------------------------------------------------------


def prediction(
    values: Sequence[float], runs: int | None = None, sd: float | None = None, split: float = 0.0
) -> Estimate | None:
    """Where a paper's number lies if it is of the same distribution: m with the error of the difference of the two.

    error² = s²/n + s_p²/r + split. r is the number of runs behind the paper's number (not stated: one), s_p the
    standard deviation that it prints, else our s; `split` the variance that an unknown held-out split adds
    (`split_variance`). Degrees of freedom are Satterthwaite's of these shares: n - 1 of both spreads, or r - 1 of the
    paper's own where it states r ≥ 2; `split` is known. None for n < 2.
    """
    n, s = len(values), standard_deviation(values)
    if s is None:
        return None
    ours, theirs = s**2 / n, (s if sd is None else sd) ** 2 / (runs or 1)
    total = ours + theirs + split
    if sd is not None and runs is not None and runs > 1:
        squares = ours**2 / (n - 1) + theirs**2 / (runs - 1)
    else:
        squares = (ours + theirs) ** 2 / (n - 1)
    return Estimate(mean(values), math.sqrt(total), total**2 / squares if squares else n - 1, (n,))


def split_variance(rate: float, images: int, spread: float) -> float:
    """2 · max(0, p(1 - p)/N - s²): of the difference of a rate p on two random parts of N images each, without what is
    in the spread s over seeds already.

    p(1 - p)/N is the variance of a rate on a random part, for one network. Some of it is chance within each image, new
    with each seed, which is most of s² (Jordan 2023); the rest, how hard the images are, changes with the part alone.
    """
    return 2 * max(0.0, rate * (1 - rate) / images - spread**2)


# ---- power --------------------------------------------------------------------------------------------------------


def smallest_difference(error: float, df: float, level: float = 1 - LEVEL, power: float = POWER) -> float:
    """The true difference for which P(t' > t(1 - level/2, df)) = power, t' noncentral with δ/error (two-sided)."""
    from scipy.special import nctdtrinc

    return float(nctdtrinc(df, 1 - power, quantile(1 - level / 2, df))) * error


def power(difference: float, error: float, df: float, level: float = 1 - LEVEL) -> float:
    """P(t' > t(1 - level/2, df)), t' noncentral with difference/error: the chance to see a true difference."""
    from scipy.special import nctdtr

    return 1 - float(nctdtr(df, difference / error, quantile(1 - level / 2, df)))


@functools.cache
def power_of_equality(margin: float, error: float, df: float, level: float = 1 - MARGIN_LEVEL) -> float:
    """P(the 1 - level interval lies within ± margin) where the true difference is 0.

    The estimate is normal with σ = `error`, its standard error σ √(χ²_df/df): the mean over χ² of
    max(0, 2 Φ(margin/σ - t(1 - level/2, df) √(χ²/df)) - 1).
    """
    from scipy.special import chdtri, ndtr

    critical, points = quantile(1 - level / 2, df), 400
    chance = 0.0
    for i in range(points):
        factor = math.sqrt(float(chdtri(df, (i + 0.5) / points)) / df)
        chance += max(0.0, 2 * float(ndtr(margin / error - critical * factor)) - 1)
    return chance / points
