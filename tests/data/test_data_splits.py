from __future__ import annotations

import numpy as np
import pytest

from lskd.data.splits import class_balanced


@pytest.mark.parametrize("count", [0, 1, 7, 10, 59, 60])
def test_count_is_exact_and_shares_are_proportional(count: int) -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    chosen, rest = class_balanced(labels, count, seed=0)
    assert len(chosen) == count
    assert sorted([*chosen, *rest]) == list(range(60))
    assert list(chosen) == sorted(chosen) and list(rest) == sorted(rest)
    shares = np.bincount(labels[chosen], minlength=3)
    assert np.abs(shares - count * np.array([10, 20, 30]) / 60).max() < 1


def test_equal_classes_get_equal_shares() -> None:
    chosen, _ = class_balanced(np.arange(1000) % 10, 200, seed=3)
    assert np.bincount(chosen % 10).tolist() == [20] * 10


def test_equal_remainders_go_to_the_smaller_labels() -> None:
    chosen, _ = class_balanced(np.arange(12) % 4, 6, seed=0)
    assert np.bincount(chosen % 4).tolist() == [2, 2, 1, 1]


def test_draw_depends_on_the_seed_only_and_never_changes() -> None:
    labels = np.arange(20) % 2
    assert class_balanced(labels, 6, seed=0)[0].tolist() == [3, 4, 7, 8, 11, 16]
    assert class_balanced(labels, 6, seed=1)[0].tolist() == [4, 7, 11, 12, 18, 19]


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="count = 5: must be >= 0 and <= 4"):
        class_balanced(np.zeros(4, dtype=np.int64), 5, seed=0)
