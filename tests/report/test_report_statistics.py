"""Statistics against numbers worked out by hand, and against SciPy's own tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from lskd.report import orders, statistics


def test_one_sample_by_hand() -> None:
    # m = 3, Σ(x - m)² = 4 + 1 + 0 + 1 + 4 = 10, s = √(10/4), error = s/√5 = √0.5; t(0.975, 4) = 2.776445.
    estimate = statistics.one_sample([1, 2, 3, 4, 5])
    assert estimate.mean == 3
    assert statistics.standard_deviation([1, 2, 3, 4, 5]) == pytest.approx(math.sqrt(2.5))
    assert estimate.error == pytest.approx(math.sqrt(0.5))
    half = 2.7764451 * math.sqrt(0.5)
    assert estimate.interval() == pytest.approx((3 - half, 3 + half))


def test_interval_of_two_values_at_any_level() -> None:
    # df = 1 is Cauchy's distribution: t(q, 1) = tan(π(q - ½)). m = 1, s = √2, error = 1.
    estimate = statistics.one_sample([0, 2])
    half = math.tan(math.pi * (0.9 / 2))
    assert estimate.interval(0.9) == pytest.approx((1 - half, 1 + half))
    assert estimate.p_value(0.0) == pytest.approx(0.5)  # P(|t| > 1) = ½


def test_one_value_has_no_spread() -> None:
    estimate = statistics.one_sample([7.0])
    assert (estimate.mean, estimate.error, estimate.interval(), estimate.p_value()) == (7.0, None, None, None)
    assert statistics.standard_deviation([7.0]) is None
    assert not estimate.has_spread


def test_equal_values_have_an_interval_without_width_and_no_p_value() -> None:
    estimate = statistics.one_sample([0.1 + 0.2, 0.3, 0.3])  # equal but for rounding
    assert not estimate.has_spread
    assert estimate.p_value() is None


def test_paired_difference_uses_shared_seeds_only() -> None:
    a, b = {0: 3.0, 1: 5.0, 2: 9.0, 7: 100.0}, {2: 6.0, 1: 4.0, 0: 1.0, 8: -100.0}
    estimate = statistics.paired([(1.0, a), (-1.0, b)])
    expected = scipy.stats.ttest_rel([3, 5, 9], [1, 4, 6])
    assert (estimate.mean, estimate.n, estimate.df) == (2.0, (3,), 2)
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))


def welch(a: list[float], b: list[float]) -> statistics.Estimate:
    return statistics.independent([(1.0, dict(enumerate(a))), (-1.0, dict(enumerate(b)))])


def test_independent_cells_have_variances_of_their_own() -> None:
    # u = 2/2 = 1, v = 8/2 = 4: df = 25 / (1/1 + 16/1) = 25/17.
    by_hand = welch([0.0, 2.0], [5.0, 9.0])
    assert (by_hand.mean, by_hand.error) == (-6.0, pytest.approx(math.sqrt(5)))
    assert by_hand.df == pytest.approx(25 / 17)

    a, b = [3.0, 5.0, 9.0, 4.0], [1.0, 4.0, 6.5]
    estimate = welch(a, b)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False)
    assert estimate.n == (4, 3)
    assert estimate.p_value() == pytest.approx(expected.pvalue)
    assert estimate.interval() == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert welch(a, [1.0]).interval() is None
    assert not welch([1.0, 1.0], [2.0, 2.0]).has_spread


def by_seed(values: Sequence[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_a_difference_of_differences_of_independent_cells() -> None:
    """Satterthwaite: error² = Σ s²/n, df = (Σ u)² / Σ u²/(n - 1)."""
    cells = [[1.0, 2.0, 4.0], [0.0, 1.0, 1.5, 2.0], [3.0, 5.0, 8.0], [2.0, 2.5, 4.0]]
    estimate = statistics.independent([(c, by_seed(x)) for c, x in zip((1, -1, -1, 1), cells, strict=True)])
    shares = [float(np.var(x, ddof=1)) / len(x) for x in cells]
    assert estimate.error == pytest.approx(math.sqrt(sum(shares)))
    df = sum(shares) ** 2 / sum(u**2 / (len(x) - 1) for u, x in zip(shares, cells, strict=True))
    assert estimate.df == pytest.approx(df)


def test_a_pooled_spread_is_that_of_the_additive_model() -> None:
    """Cell + seed, fitted by least squares; the contrast's error is that of the fit."""
    x = np.random.default_rng(3).normal(size=(4, 5)) + np.arange(4)[:, None]
    pool = statistics.pool([by_seed(row) for row in x])
    assert pool is not None
    design = np.zeros((20, 8))
    for i in range(4):
        for j in range(5):
            design[5 * i + j, i] = 1.0
            if j:
                design[5 * i + j, 3 + j] = 1.0
    fit, residual, *_ = np.linalg.lstsq(design, x.ravel(), rcond=None)
    assert (pool.n, pool.k, pool.df) == (5, 4, 12)
    assert pool.variance == pytest.approx(residual[0] / 12)
    contrast = [(1.0, by_seed(x[2])), (-1.0, by_seed(x[0]))]
    estimate, c = pool.estimate(contrast), np.array([-1, 0, 1, 0, 0, 0, 0, 0])
    assert estimate.mean == pytest.approx(c @ fit)
    assert estimate.error == pytest.approx(math.sqrt(pool.variance * c @ np.linalg.inv(design.T @ design) @ c))
    differences = x[2] - x[0]
    ratio = differences.var(ddof=1) / (2 * pool.variance)
    assert pool.covers(contrast) == pytest.approx(scipy.stats.f.sf(ratio, 4, 12))


def test_equal_spread_is_brown_and_forsythes() -> None:
    rng = np.random.default_rng(0)
    samples = [list(spread * rng.normal(size=n)) for spread, n in ((1, 5), (2, 6), (4, 5))]
    assert statistics.equal_spread(samples) == pytest.approx(scipy.stats.levene(*samples, center="median").pvalue)
    assert statistics.equal_spread([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]) == 1.0


def test_orders_are_pages_and_jonckheeres() -> None:
    rows = [[1.0, 2.0, 4.0], [2.0, 1.0, 3.0], [0.0, 5.0, 6.0]]
    # L = 1·4 + 2·5 + 3·9 = 41. By hand: of the 6³ orders 1 has 42, and 6 have 41 (one seed with one of two swaps).
    assert orders.page_trend(rows) == (41.0, pytest.approx(7 / 216))
    samples = [[1.0, 4.0], [2.0, 5.0, 7.0], [3.0, 6.0]]
    j, p = orders.jonckheere(samples)
    flat = sorted(x for sample in samples for x in sample)

    def count(order: Sequence[float]) -> float:
        a, b, c = order[:2], order[2:5], order[5:]
        return sum(y > x for x, y in [*itertools.product(a, b), *itertools.product(a, c), *itertools.product(b, c)])

    counts = [count(order) for order in itertools.permutations(flat)]
    assert j == count([1, 4, 2, 5, 7, 3, 6])
    assert p == pytest.approx(sum(c >= j for c in counts) / len(counts))
    mann_whitney = scipy.stats.mannwhitneyu([4.0, 9.0, 5.0], [1.0, 3.0, 6.0, 2.0], alternative="greater")
    assert orders.jonckheere([[1.0, 3.0, 6.0, 2.0], [4.0, 9.0, 5.0]])[1] == pytest.approx(mann_whitney.pvalue)
    tied, _ = orders.jonckheere([[1.0, 2.0], [2.0, 3.0]])
    assert tied == 3.5


def test_associations_are_spearmans() -> None:
    x, y = [3.0, 1.0, 2.0, 2.0, 8.0], [1.0, 1.0, 4.0, 0.0, 9.0]
    assert statistics.rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    assert statistics.rank_correlation(x, [1.0] * 5) == 0.0
    _, above, below = statistics.association([0.8, 0.6, 0.9], 5)
    expected = scipy.stats.ttest_1samp([0.8, 0.6, 0.9], 0, alternative="greater")
    assert (above, below) == (pytest.approx(expected.pvalue), pytest.approx(1 - expected.pvalue))
    _, above, _ = statistics.association([1.0, 1.0, 1.0], 9)  # z = √(3 · 8)
    assert above == pytest.approx(scipy.stats.norm.sf(math.sqrt(24)))


def test_statements_taken_together() -> None:
    p = [0.04, 0.001, 0.3, 0.02]
    assert statistics.at_least(4, p) == 0.3  # all: the largest
    assert statistics.at_least(1, p) == pytest.approx(4 * 0.001)  # any: Bonferroni
    assert statistics.at_least(2, p) == pytest.approx(3 * 0.02)
    # Holm's by hand: 4 · 0.001, 3 · 0.02, 2 · 0.04, 1 · 0.3, none below the one before.
    assert statistics.holm(p) == pytest.approx([0.08, 0.004, 0.3, 0.06])
    assert statistics.holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert statistics.improvement([1.0, 3.0], [1.0, 2.0]) == pytest.approx((0.5 + 0 + 1 + 1) / 4)


def test_a_papers_number_is_compared_with_a_prediction_interval() -> None:
    """Three runs with m = 0.83, s = 0.046, and one run behind the paper's number: 0.83 ± 4.30 · 0.046 · √(4/3)."""
    values = [0.83 - 0.046, 0.83, 0.83 + 0.046]
    one = statistics.prediction(values)
    assert one is not None and one.interval() == pytest.approx((0.602, 1.058), abs=0.001)
    five = statistics.prediction(values, 5)
    assert five is not None and five.error == pytest.approx(0.046 * math.sqrt(1 / 3 + 1 / 5))
    printed = statistics.prediction(values, 5, 0.2)
    expected = scipy.stats.ttest_ind_from_stats(0.83, 0.046, 3, 1.0, 0.2, 5, equal_var=False)
    assert printed is not None and printed.p_value(1.0) == pytest.approx(expected.pvalue)
    assert statistics.prediction([0.83]) is None
    # 72 % of 10,000 images, seeds 0.3 points apart: 2 · (0.72 · 0.28/10⁴ − 0.003²).
    assert statistics.split_variance(0.72, 10_000, 0.003) == pytest.approx(2 * (2.016e-5 - 9e-6))
    assert statistics.split_variance(0.72, 10_000, 0.01) == 0.0


def test_power_is_that_of_the_noncentral_t() -> None:
    difference = statistics.smallest_difference(0.2, 4)
    critical = scipy.stats.t.ppf(0.975, 4)
    assert scipy.stats.nct.sf(critical, 4, difference / 0.2) == pytest.approx(0.8)
    assert statistics.power(difference, 0.2, 4) == pytest.approx(0.8)
    # A margin of 0.5 and differences with sd 0.36.
    rng = np.random.default_rng(0)
    for n in (5, 10):
        draws = 0.36 * rng.standard_normal((20_000, n))
        half = scipy.stats.t.ppf(0.95, n - 1) * draws.std(1, ddof=1) / math.sqrt(n)
        simulated = float((abs(draws.mean(1)) + half < 0.5).mean())
        assert statistics.power_of_equality(0.5, 0.36 / math.sqrt(n), n - 1) == pytest.approx(simulated, abs=0.01)


def test_a_ratio_of_equal_counts_is_the_mean_of_its_runs_and_of_others_is_weighted() -> None:
    equal, mean = statistics.ratio([8, 9, 7], [10, 10, 10]), statistics.one_sample([0.8, 0.9, 0.7])
    assert (equal.mean, equal.error, equal.df) == pytest.approx((mean.mean, mean.error, mean.df))
    rare = statistics.ratio([8, 9, 7, 1], [10, 10, 10, 1])
    assert rare.mean == pytest.approx(25 / 31)
    residuals = [8 - 250 / 31, 9 - 250 / 31, 7 - 250 / 31, 1 - 25 / 31]
    assert rare.error == pytest.approx((4 / 3 * sum(r**2 for r in residuals)) ** 0.5 / 31)
    assert statistics.ratio([1], [2]).error is None
