"""Metrics against PyTorch, an independent NumPy computation and closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.metrics import (
    METRICS,
    Binned,
    best_temperature,
    calibration,
    expected_calibration_error,
    metric,
    negative_log_likelihood,
    reliability,
    summary,
    top_k_accuracy,
)
from lskd.quantity import merit
from lskd.tables.metric import Metric


def draw(n: int, classes: int, seed: int = 0, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (n, classes) and labels (n,) that agree more often than by chance."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return scale * (torch.randn(n, classes, generator=generator) + F.one_hot(labels, classes)), labels


def calibration_error(probs: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """ECE bin by bin. Bins are [i/n, (i+1)/n), the last with 1."""
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    total = 0.0
    for low, high in zip(edges, [*edges[1:-1], np.float32(np.inf)], strict=False):
        chosen = (low <= confidence) & (confidence < high)
        if chosen.any():
            total += chosen.mean() * abs(correct[chosen].mean() - confidence[chosen].mean(dtype=np.float64))
    return float(total)


def with_confidence(p: float, classes: int = 2) -> list[float]:
    """Logits whose softmax gives class 0 the probability p, and the others the same."""
    return [math.log(p), *[math.log((1 - p) / (classes - 1))] * (classes - 1)]


# ---- accuracy and likelihood --------------------------------------------------------------------------------------


def test_top_k_by_hand():
    logits = torch.tensor([[5.0, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [3, 2, 1, 0, -1, -2], [0, 9, 8, 7, 6, 5]])
    labels = torch.tensor([0, 3, 5, 1])
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 5, 6)] == [50.0, 50.0, 75.0, 75.0, 100.0]


def test_top_k_of_fewer_classes_than_k_is_everything():
    assert top_k_accuracy(*draw(20, 3), k=5) == 100.0


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_counts_the_classes_that_are_ahead(k):
    logits, labels = draw(500, 10)
    ahead = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert 0 < (ahead < k).sum() < 500
    assert top_k_accuracy(logits, labels, k) == pytest.approx(100 * (ahead < k).double().mean().item())


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_likelihood_is_that_of_torch(classes):
    logits, labels = draw(1000, classes)
    expected = F.cross_entropy(logits.double(), labels).item()
    assert negative_log_likelihood(logits, labels) == pytest.approx(expected, rel=1e-6)


def test_likelihood_of_what_is_nearly_impossible_is_finite():
    assert negative_log_likelihood(torch.tensor([[1e4, -1e4]]), torch.tensor([1])) == 2e4


# ---- calibration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_bin_by_bin(classes, scale, bins):
    logits, labels = draw(2000, classes, scale=scale)
    expected = calibration_error(logits.softmax(-1).numpy(), labels.numpy(), bins)
    assert expected_calibration_error(logits, labels, bins=bins) == pytest.approx(expected, abs=2e-6)


def test_a_calibrated_network_has_no_calibration_error():
    """Sure by 3/4, and right 3 times out of 4; sure by 0.6, and right 3 times out of 5."""
    logits = torch.tensor([with_confidence(0.75)] * 4 + [with_confidence(0.6)] * 5)
    labels = torch.tensor([0, 0, 0, 1, 0, 0, 0, 1, 1])
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("accuracy", [0.0, 0.25, 1.0])
def test_a_network_that_is_always_sure_errs_by_its_error(accuracy):
    logits = torch.tensor([[100.0, 0.0, 0.0]] * 8)
    labels = torch.tensor([0 if i < 8 * accuracy else 1 for i in range(8)])
    assert expected_calibration_error(logits, labels) == pytest.approx(1 - accuracy, abs=1e-6)


def test_bins_are_weighted_by_their_examples_and_errors_do_not_cancel():
    """Too sure by 0.4 on 1 example of 4, not sure enough by 0.3 on 3 of 4."""
    logits = torch.tensor([with_confidence(0.4, 10)] + [with_confidence(0.7, 10)] * 3)
    labels = torch.tensor([1, 0, 0, 0])
    assert expected_calibration_error(logits, labels) == pytest.approx(0.25 * 0.4 + 0.75 * 0.3, abs=1e-6)


def test_errors_of_one_bin_cancel():
    """0.70 and 0.72 lie in one of 15 bins, [0.667, 0.733); of 100 bins each has its own."""
    logits = torch.tensor([with_confidence(0.705), with_confidence(0.725)])
    labels = torch.tensor([0, 1])
    assert expected_calibration_error(logits, labels, bins=15) == pytest.approx(0.715 - 0.5, abs=1e-6)
    assert expected_calibration_error(logits, labels, bins=100) == pytest.approx((0.295 + 0.725) / 2, abs=1e-6)


def test_logits_that_look_like_probabilities_are_logits():
    """Some libraries take what lies in [0, 1] for probabilities, and would call the network overconfident by 0.4."""
    logits, labels = torch.tensor([[0.9, 0.1]] * 2), torch.tensor([0, 1])
    confidence = 1 / (1 + math.exp(-0.8))
    assert expected_calibration_error(logits, labels) == pytest.approx(confidence - 0.5, abs=1e-6)
    assert summary(logits, labels)["ece15"] == pytest.approx(confidence - 0.5, abs=1e-6)


def test_a_confidence_of_exactly_one_has_no_bin_of_its_own():
    """Sure by 1.0 and right in 95 %, sure by 0.95 and always right: one bin, whose errors cancel (Guo 2017)."""
    logits = torch.tensor([[200.0, 0.0]] * 100 + [with_confidence(0.95)] * 100)
    labels = torch.tensor([1] * 5 + [0] * 195)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [3.0, 200.0])
def test_reliability_bins_make_up_the_calibration_error(scale):
    logits, labels = draw(2000, 10, scale=scale)
    assert (logits.softmax(-1).amax(1) == 1).any() == (scale == 200.0)  # saturated
    diagram = reliability(logits, labels)
    assert len(diagram) == 15 and sum(entry[0] for entry in diagram) == 2000
    error = sum(n / 2000 * abs(entry[0] - entry[1]) for n, *entry in diagram if n)
    assert error == pytest.approx(expected_calibration_error(logits, labels), abs=2e-6)
    accuracy = sum(n * entry[1] for n, *entry in diagram if n) / 2000
    assert 100 * accuracy == pytest.approx(top_k_accuracy(logits, labels))


def test_reliability_by_hand():
    """Sure by 0.75, and right 2 times out of 4: the bin [11/15, 12/15). Sure by 1: the last."""
    logits = torch.tensor([with_confidence(0.75)] * 4 + [[200.0, 0.0]])
    diagram = reliability(logits, torch.tensor([0, 0, 1, 1, 0]))
    assert diagram[11] == [4, pytest.approx(0.75), 0.5]
    assert diagram[14] == [1, 1.0, 1.0]
    assert all(entry == [0] for number, entry in enumerate(diagram) if number not in (11, 14))


@pytest.mark.parametrize(("logit", "right"), [(3.0, 3), (0.5, 3), (2.0, 2.4)])
def test_best_temperature_in_closed_form(logit, right):
    """Logits (z, 0) with a share r of the labels 0: the likelihood is greatest where sigmoid(z/T) = r."""
    labels = torch.cat([torch.zeros(round(right * 250)), torch.ones(1000 - round(right * 250))]).long()
    logits = torch.tensor([[logit, 0.0]]).repeat(1000, 1)
    share = right / 4
    assert best_temperature(logits, labels) == pytest.approx(logit / math.log(share / (1 - share)), rel=1e-4)


def test_best_temperature_undoes_a_scale():
    """Labels drawn from softmax(z): the best T of s·z is s, up to what 20,000 draws can tell."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
    one = best_temperature(logits, labels)
    assert one == pytest.approx(1.0, abs=0.03)
    for scale in (0.5, 1.9):
        assert best_temperature(scale * logits, labels) == pytest.approx(scale * one, rel=1e-4)
    by_grid = min((negative_log_likelihood(1.9 * logits / t, labels), t) for t in (1.7, 1.8, 1.9, 2.0, 2.1))[1]
    assert by_grid == 1.9
    assert (
        expected_calibration_error(logits / one, labels) < 0.012 < 0.1 < expected_calibration_error(3 * logits, labels)
    )


def test_a_network_that_is_always_right_is_cooled_to_the_limit():
    logits = torch.tensor([[1.0, 0.0]] * 3)
    assert best_temperature(logits, torch.zeros(3, dtype=torch.long)) == pytest.approx(0.05, rel=1e-3)


def test_calibration_scales_each_part_by_each_parts_temperature():
    parts = {"validation": draw(300, 5, scale=4.0), "test": draw(200, 5, scale=2.0)}
    record = calibration(parts)
    assert record.keys() == parts.keys()
    for part, (logits, labels) in parts.items():
        assert record[part]["reliability"] == reliability(logits, labels)
        for other in parts:
            scaled, temperature = record[part]["scaled"][other], best_temperature(*parts[other])
            assert scaled["temperature"] == temperature
            assert scaled["nll"] == negative_log_likelihood(logits / temperature, labels)
            assert scaled["ece15"] == expected_calibration_error(logits / temperature, labels)
            assert scaled["reliability"] == reliability(logits / temperature, labels)
        own = record[part]["scaled"][part]["nll"]
        assert own <= min(entry["nll"] for entry in record[part]["scaled"].values())


# ---- the record ---------------------------------------------------------------------------------------------------


def test_summary():
    logits, labels = draw(300, 10)
    values = summary(logits, labels)
    assert set(values) == {"top1", "error", "nll", "ece15", "top3", "top5", "ece20"}
    assert values["top1"] == top_k_accuracy(logits, labels) == pytest.approx(100 - values["error"])
    assert values["top3"] == top_k_accuracy(logits, labels, 3) > values["top1"]
    assert values["top5"] == top_k_accuracy(logits, labels, 5) > values["top3"]
    assert values["nll"] == negative_log_likelihood(logits, labels)
    assert values["ece15"] == expected_calibration_error(logits, labels)
    assert values["ece20"] == expected_calibration_error(logits, labels, bins=20) != values["ece15"]


@pytest.mark.parametrize(("classes", "there"), [(5, False), (6, True)])
def test_summary_has_top_5_where_it_says_something(classes, there):
    assert ("top5" in summary(*draw(50, classes))) == there


def test_half_precision_logits_are_judged_in_fp32():
    logits, labels = draw(300, 10)
    logits = logits.bfloat16()
    assert summary(logits, labels) == summary(logits.float(), labels)
    assert expected_calibration_error(logits, labels) == expected_calibration_error(logits.float(), labels)
    assert negative_log_likelihood(logits, labels) == negative_log_likelihood(logits.float(), labels)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_an_error(bad):
    logits, labels = draw(20, 10)
    logits[7, 3] = bad
    with pytest.raises(FloatingPointError, match="the network's outputs are not finite"):
        summary(logits, labels)


# ---- the registry ---------------------------------------------------------------------------------------------------


def test_a_metric_is_one_function(monkeypatch):
    """From its registration on it is recorded, plain and scaled, and a table shows it with its unit and decimals."""
    monkeypatch.setattr(METRICS, "entries", dict(METRICS))

    @metric("brier", "Brier score", digits=5, better="lower", scaled=True)
    def brier(logits: torch.Tensor, labels: torch.Tensor) -> float:
        probs = logits.softmax(-1)
        return (probs - F.one_hot(labels, probs.shape[-1])).square().sum(-1).mean().item()

    logits, labels = draw(200, 3)
    assert summary(logits, labels)["brier"] == brier(logits, labels) > 0
    scaled = calibration({"test": (logits, labels)})["test"]["scaled"]["test"]
    assert scaled["brier"] == pytest.approx(brier(logits / scaled["temperature"], labels))
    shown = Metric("brier", scaled_on="test")
    assert (shown.digits, shown.unit, shown.quantity.title, shown.quantity.better) == (5, "", "Brier score", "lower")
    with pytest.raises(InputError, match="metric = 'brier': is taken by "):
        metric("brier", "another")(brier)


def test_perplexity_follows_from_the_likelihood_that_is_recorded():
    """Plain, of an epoch, and of scaled outputs; no run records it."""
    assert "perplexity" not in summary(*draw(20, 6)) and METRICS["perplexity"].of(1000.0) == math.inf
    run = SimpleNamespace(dataset=SimpleNamespace(evaluate="test"))
    record = {
        "examples": 1,
        "last": {"test": {"nll": 1.5}},
        "best": {"test": {"test": {"nll": 1.25}}},
        "train": {},
        "calibration": {"test": {"scaled": {"test": {"nll": 0.5}}}},
    }
    for choice, nll in (({}, 1.5), ({"epoch": "best_on_test"}, 1.25), ({"scaled_on": "test"}, 0.5)):
        assert Metric("perplexity", **choice).of(run, record) == pytest.approx(math.exp(nll))
    assert Metric("perplexity", part="validation").of(run, record) is None
    line = {"epoch": 0, "test": {"nll": 2.0}}
    assert Metric("perplexity", at_epoch=1).logged(run, record, [line]) == pytest.approx(math.exp(2))


def test_what_is_better():
    assert METRICS["gap"].better == "zero" and METRICS["least_gap"].better == METRICS["gamma"].better == ""
    assert [merit(METRICS[name].better, -2.0) for name in ("top1", "error", "gap")] == [-2, 2, -2]
    assert merit("zero", 0.5) == merit("zero", -0.5) == -0.5


def test_metrics_record_what_they_are():
    """In this order, as in the records of old runs; only of enough classes."""
    few, many = (list(summary(*draw(20, classes))) for classes in (5, 6))
    assert few == ["top1", "error", "nll", "ece15", "top3", "ece20"]
    assert many == ["top1", "error", "nll", "ece15", "top5", "top3", "ece20"]
    assert summary(*draw(50, 6))["error"] == 100 - summary(*draw(50, 6))["top1"]
    diagram = reliability(*draw(200, 6))
    gap = METRICS["gap"]
    assert isinstance(gap, Binned) and METRICS["gap"].of(diagram) <= expected_calibration_error(*draw(200, 6))


@pytest.mark.parametrize(
    ("metric", "digits", "unit"),
    [
        (Metric(), 2, "%"),
        (Metric("nll"), 4, "nats"),
        (Metric("nll", digits=2, unit=""), 2, ""),
        (Metric("rs"), 3, ""),
        (Metric("rs", total=True), 0, ""),
        (Metric("resemblance_within"), 5, ""),
    ],
)
def test_digits_and_unit_are_those_of_the_registry_unless_given(metric, digits, unit):
    assert (metric.digits, metric.unit) == (digits, unit)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "top6"}, "name = 'top6': did you mean 'top5'"),
        ({"part": "train", "epoch": "best_on_test"}, "epoch = 'best_on_test': must be last with part=train"),
        (
            {"name": "ece15", "part": "train", "scaled_on": "test"},
            "scaled_on = 'test': must be left out with part=train",
        ),
        ({"at_epoch": 3, "epoch": "best_on_test"}, "epoch = 'best_on_test': must be last with at_epoch"),
        ({"name": "nll", "scaled_on": "test", "at_epoch": 3}, "at_epoch = 3: must be left out with scaled_on"),
        (
            {"name": "top1", "scaled_on": "test"},
            "scaled_on = 'test': .* it goes with temperature, nll, perplexity, ece15, gap",
        ),
        ({"name": "gamma", "part": "test"}, "part = 'test': must be left out with name=gamma"),
    ],
)
def test_choices_that_there_are_not_of_a_number(fields, message):
    with pytest.raises(InputError, match=message):
        Metric(**fields)


@pytest.mark.parametrize("size", [2e37, 3e38])
def test_outputs_that_overflow_where_they_are_scaled_are_not_finite(size):
    """They are finite, and are not at the least temperature of calibration."""
    logits, labels = torch.tensor([[size, -size, 0.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1])
    with pytest.raises(FloatingPointError, match="not finite"):
        summary(logits, labels)
    assert calibration({"test": (logits / 1e3, labels)})["test"]["scaled"]
