"""Calibration errors by two confidences, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lskd.errors import InputError
from lskd.probes.confidence import Confidence, errors


def test_a_trained_network_by_the_formulas(look):
    network, test, reading = look("confidence", Confidence(temperature=0.25), test=90, steps=9)
    with torch.no_grad():
        z = network.double().eval()(test.images.double() / 255).numpy() / 0.25
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    right = p.argmax(1) == test.labels.numpy()
    of = {"ece_probability": p.max(1), "ece_entropy": 1 + (p * np.log(p)).sum(1) / np.log(3)}
    assert set(of) == set(Confidence.gives)
    for name, confidence in of.items():
        expected = 0.0
        for k in range(10):
            here = (confidence >= k / 10) & (confidence < (k + 1) / 10)
            if here.any():
                expected += here.mean() * abs(right[here].mean() - confidence[here].mean())
        assert reading["test"][name] == pytest.approx(100 * expected, rel=1e-4)


def test_uniform_and_sure_predictions():
    """Of 4 classes: a uniform p has the confidences 1/4 and 0, a sure one 1 and 1."""
    labels = torch.tensor([0, 1, 2, 3])
    uniform = errors(torch.zeros(4, 4).double(), labels, 10)  # the first class is predicted: right once in four
    assert uniform == pytest.approx({"ece_probability": 0, "ece_entropy": 25})
    sure = errors(torch.eye(4).double()[[0, 1, 2, 0]] * 1e4, labels, 10)  # right three times in four
    assert sure == pytest.approx({"ece_probability": 25, "ece_entropy": 25})
    for bad in ({"temperature": 0.0}, {"bins": 0}):
        with pytest.raises(InputError):
            Confidence(**bad)
