"""Statistics against numbers worked out by hand, and against SciPy's own tests."""

from __future__ import annotations

import math

import pytest
import scipy.stats

from lskd.report import statistics


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
