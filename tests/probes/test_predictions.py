"""The two terms of the cross-entropy over seeds, against closed forms and simulation; what is kept of a network."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from lskd.probes.predictions import DECIMALS, Predictions, variance_terms


def test_two_opposite_predictions():
    """Their normalised geometric mean is (½, ½), from which both diverge by -½ log(4 · 0.9 · 0.1)."""
    log_probs = numpy.log([[[0.9, 0.1]], [[0.1, 0.9]]])
    assert variance_terms(log_probs) == pytest.approx(2 * [-0.5 * math.log(0.36)])
    assert variance_terms(numpy.repeat(log_probs[:1], 3, 0)) == pytest.approx([0, 0, 0])


def looks_at(log_probs: numpy.ndarray, labels: numpy.ndarray) -> list[dict[str, object]]:
    return [
        {
            "nll": -one[numpy.arange(len(labels)), labels].mean(),
            "surprise": [" ".join(f"{-value:.{DECIMALS}f}" for value in row) for row in one],
        }
        for one in log_probs
    ]


def test_the_terms_make_up_the_loss():
    draw = numpy.random.default_rng(0)
    logits = draw.normal(scale=2.0, size=(7, 40, 5))
    log_probs = logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True))
    labels = draw.integers(5, size=40)
    readings = looks_at(log_probs, labels)
    variance, bias = (Predictions().numbers(name, readings) for name in ("variance_term", "bias_term"))
    assert numpy.mean(variance) + numpy.mean(bias) == pytest.approx(
        numpy.mean([reading["nll"] for reading in readings])
    )
    mean = log_probs.mean(0)
    mean -= numpy.log(numpy.exp(mean).sum(-1, keepdims=True))
    assert numpy.mean(bias) == pytest.approx(-mean[numpy.arange(40), labels].mean(), abs=2e-4)
    assert variance == pytest.approx(variance_terms(log_probs), abs=2e-4)  # rounded on their way


def test_runs_of_a_cell_are_nearly_independent():
    """Over many made-up cells of 25 runs, the spread of the mean of their numbers is that of independent ones."""
    draw = numpy.random.default_rng(1)
    means, spreads = [], []
    for _ in range(1000):
        logits = draw.normal(size=(25, 4, 3))
        terms = variance_terms(logits - numpy.log(numpy.exp(logits).sum(-1, keepdims=True)))
        means.append(numpy.mean(terms))
        spreads.append(numpy.std(terms, ddof=1) / 5)
    assert numpy.std(means) == pytest.approx(numpy.mean(spreads), rel=0.1)


def test_what_is_kept_of_a_network(look):
    network, test, reading = look("predictions", Predictions(examples=10), test=12, steps=3)
    with torch.no_grad():
        log_probs = network(test.images[:10].float() / 255).log_softmax(1)
    kept = [[-float(word) for word in line.split()] for line in reading["test"]["surprise"]]
    torch.testing.assert_close(torch.tensor(kept), log_probs, rtol=0, atol=0.00051)
    labels = test.labels[:10]
    assert reading["test"]["nll"] == pytest.approx(-log_probs[range(10), labels].mean().item(), abs=1e-6)
