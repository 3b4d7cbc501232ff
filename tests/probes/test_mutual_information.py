"""Both estimators of the mutual information, against closed forms and a computation by loops."""

from __future__ import annotations

import math

import pytest
import torch

from lskd.data import DATASETS
from lskd.errors import InputError
from lskd.probes.mutual_information import MutualInformation, estimate, without_factors


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def by_loops(draws: list[list[float]], y: list[float], *, factors: bool) -> float:
    """The formulas as printed: with the factors 1/N (version 3), or without them (NeurIPS)."""
    n, count = len(draws), len(draws[0])
    means = [sum(row) / count for row in draws]
    variance = sum((value - mean) ** 2 for row, mean in zip(draws, means, strict=True) for value in row) / (n * count)
    total = 0.0
    for x in range(n):
        inner = sum(math.exp(-((y[x] - mean) ** 2) / (2 * variance)) for mean in means)
        total += -((y[x] - means[x]) ** 2) / (2 * variance) - math.log(inner / n if factors else inner)
    return total / n if factors else total


def test_both_estimators_equal_the_printed_formulas():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(6, 1, dtype=torch.float64, generator=generator)
    draws = centres + torch.randn(6, 4, dtype=torch.float64, generator=generator)
    for y in (draws[:, 0], centres[:, 0] + 0.5):
        mean = estimate(draws, y)
        assert mean == pytest.approx(by_loops(draws.tolist(), y.tolist(), factors=True))
        assert without_factors(mean, 6) == pytest.approx(by_loops(draws.tolist(), y.tolist(), factors=False))


def test_two_images_by_hand():
    """μ = ±1, σ² = 1, y = μ: I = -log ½(1 + e^-2)."""
    draws = tensor([0, 2], [-2, 0])
    assert estimate(draws, torch.tensor([1.0, -1.0]).double()) == pytest.approx(-math.log((1 + math.exp(-2)) / 2))


def test_outputs_that_tell_all_images_apart_give_log_n():
    centres = 1000.0 * torch.arange(8, dtype=torch.float64)[:, None]
    draws = centres + tensor([-1, 1])
    assert estimate(draws, centres[:, 0]) == pytest.approx(math.log(8))


def test_outputs_that_tell_only_the_classes_apart_give_log_2():
    """Müller's point: what label smoothing keeps of an image is its class."""
    draws = torch.cat([tensor([-1, 1]).expand(300, 2), 1000 + tensor([-1, 1]).expand(300, 2)])
    assert estimate(draws, draws.mean(1)) == pytest.approx(math.log(2))


def test_outputs_that_are_noise_give_nothing():
    draws = tensor([-1, 1]).expand(8, 2)
    assert estimate(draws, torch.zeros(8, dtype=torch.float64)) == pytest.approx(0)


def test_without_chance_it_is_the_limit():
    values = torch.arange(8, dtype=torch.float64)[:, None].expand(8, 3)
    assert estimate(values, values[:, 0]) == pytest.approx(math.log(8))
    pairs = values // 2  # each value twice: indistinguishable
    assert estimate(pairs, pairs[:, 0]) == pytest.approx(math.log(4))


def test_a_reused_draw_says_more_than_a_draw_of_its_own():
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(300, 6, dtype=torch.float64, generator=generator)
    assert estimate(draws[:, :5], draws[:, 0]) > estimate(draws[:, :5], draws[:, 5]) + 0.1


@pytest.mark.parametrize("count", [5, 50])
def test_what_few_draws_do_to_an_estimate(count):
    """Two classes and noise, so that the truth is log 2. μ_x of L draws makes σ² low by 1/L, and what a draw of its
    own is away from it high by 1/L: log 2 - 1/(L-1) - ½ log(1-1/L), and for one of the L draws log 2 - ½ log(1-1/L)."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(20):
        draws = torch.randn(600, count + 1, dtype=torch.float64, generator=generator)
        draws[300:] += 100
        found.append([estimate(draws[:, :-1], draws[:, -1]), estimate(draws[:, :-1], draws[:, 0])])
    own, reused = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    shared = math.log(2) - 0.5 * math.log(1 - 1 / count)
    assert own == pytest.approx(shared - 1 / (count - 1), abs=0.015)
    assert reused == pytest.approx(shared, abs=0.015)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("airplane", "dogs"), "classes = 'dogs': did you mean 'dog'?"),
        (("airplane",), "must be two classes of cifar10"),
        (("dog", "dog"), "must be different classes of cifar10"),
    ],
)
def test_a_pair_that_the_data_does_not_have_is_an_error(classes, message):
    with pytest.raises(InputError) as error:
        MutualInformation(classes=classes).check(DATASETS["cifar10"].spec)
    assert message in str(error.value)


@pytest.mark.parametrize("settings", [{"draws": 1}, {"examples": 0}, {"every": -1}])
def test_settings_out_of_range_are_errors(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(InputError, match=f"{name} = {value}: must be >="):
        MutualInformation(**settings)
